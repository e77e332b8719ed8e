"""What this computer is, whether it is fit for a run, and how fast it is.

``probe`` gives the facts that a run depends on; ``gather`` all that ``judge`` looks at; ``trial``
a layer that is really trained; ``calibrate`` measures rates, which ``store`` keeps;
``memory`` takes and watches this process's own.
"""

from repotune.machine.calibrate import (
    calibrate,
    ensure_rates,
    for_precision,
    read_calibration,
)
from repotune.machine.disk import drive, free_bytes
from repotune.machine.facts import JobNeeds, MachineFacts
from repotune.machine.gather import check_gpu, free_gpu_bytes, gather, who_holds_the_gpu
from repotune.machine.identity import identify
from repotune.machine.judge import conclude, expects_gpu, judge
from repotune.machine.memory import (
    CUBLAS,
    CUBLAS_SETTING,
    Peak,
    cap_gpu,
    deterministic_gpu,
    gpu_bytes,
    gpu_room,
    prepare_gpu,
)
from repotune.machine.needs import CPU_RAM_BYTES, GPU_RAM_BYTES
from repotune.machine.outcomes import track_record
from repotune.machine.probe import find_device, precision_here, probe
from repotune.machine.slowed import slowed_by
from repotune.machine.store import (
    cache_folder,
    data_folder,
    read_outcomes,
    read_rates,
    record_outcome,
    write_rates,
)
from repotune.machine.trial import RandomWeights, judge_layer, try_layer

__all__ = [
    "CPU_RAM_BYTES",
    "CUBLAS",
    "CUBLAS_SETTING",
    "GPU_RAM_BYTES",
    "JobNeeds",
    "MachineFacts",
    "Peak",
    "RandomWeights",
    "cache_folder",
    "calibrate",
    "cap_gpu",
    "check_gpu",
    "conclude",
    "data_folder",
    "deterministic_gpu",
    "drive",
    "ensure_rates",
    "expects_gpu",
    "find_device",
    "for_precision",
    "free_bytes",
    "free_gpu_bytes",
    "gather",
    "gpu_bytes",
    "gpu_room",
    "identify",
    "judge",
    "judge_layer",
    "precision_here",
    "prepare_gpu",
    "probe",
    "read_calibration",
    "read_outcomes",
    "read_rates",
    "record_outcome",
    "slowed_by",
    "track_record",
    "try_layer",
    "who_holds_the_gpu",
    "write_rates",
]
