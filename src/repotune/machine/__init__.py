"""What this computer is, whether it is fit for a run, and how fast it is.

``probe`` gives the facts that a run depends on; ``gather`` all that ``judge`` looks at; ``trial``
a layer that is really trained; ``calibrate`` measures rates, which ``store`` keeps.
"""

from repotune.machine.calibrate import calibrate, for_precision, read_calibration
from repotune.machine.facts import JobNeeds, MachineFacts
from repotune.machine.gather import gather
from repotune.machine.identity import identify
from repotune.machine.judge import conclude, expects_gpu, judge
from repotune.machine.needs import main_job
from repotune.machine.probe import probe
from repotune.machine.store import (
    data_folder,
    read_outcomes,
    read_rates,
    record_outcome,
    write_rates,
)
from repotune.machine.trial import RandomWeights, judge_layer, try_layer

__all__ = [
    "JobNeeds",
    "MachineFacts",
    "RandomWeights",
    "calibrate",
    "conclude",
    "data_folder",
    "expects_gpu",
    "for_precision",
    "gather",
    "identify",
    "judge",
    "judge_layer",
    "main_job",
    "probe",
    "read_calibration",
    "read_outcomes",
    "read_rates",
    "record_outcome",
    "try_layer",
    "write_rates",
]
