"""A run's job: its configuration with everything that it leaves open settled for this machine.

``settling`` decides once, and finds again when the run is resumed; ``settled`` is what it decided,
``passes`` how its rows go through the model, ``load`` the model itself.
"""

from repotune.job.load import load_decoder, quantised_folder
from repotune.job.passes import first_passes, healed_passes, lower_policy, plan_policy
from repotune.job.settled import Job, training_fingerprint
from repotune.job.settling import CPU_MODEL, GPU_MODEL, SLOW_FP16, settle, without_notices

__all__ = [
    "CPU_MODEL",
    "GPU_MODEL",
    "SLOW_FP16",
    "Job",
    "first_passes",
    "healed_passes",
    "load_decoder",
    "lower_policy",
    "plan_policy",
    "quantised_folder",
    "settle",
    "training_fingerprint",
    "without_notices",
]
