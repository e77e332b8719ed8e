"""Will it fit, how long, what it costs; which layers keep their activations.

``memory`` and ``speed`` are the two models, term by term; ``rates`` and ``target`` say what a
device can do, ``policy`` and ``fit`` what suits it, ``plan`` puts it together with ``cost``.
``plain_stack`` is the memory of what people run today. No torch here: a plan needs
``records.Shape``, never the model.
"""

from repotune.planning.fit import fastest, fit
from repotune.planning.memory import (
    Setup,
    lora_parameters,
    memory_parts,
    moments_bytes,
    parameters,
    resident_bytes,
    saved_layer_bytes,
    weight_bytes,
    working_bytes,
)
from repotune.planning.plain_stack import PlainRun, plain_stack_peak
from repotune.planning.plan import (
    BYTES_PER_TOKEN,
    Workload,
    chosen_config,
    plan,
    suited_config,
    with_preset,
)
from repotune.planning.policy import choose_policy
from repotune.planning.target import Target, gpu_target, machine_target

__all__ = [
    "BYTES_PER_TOKEN",
    "PlainRun",
    "Setup",
    "Target",
    "Workload",
    "choose_policy",
    "chosen_config",
    "fastest",
    "fit",
    "gpu_target",
    "lora_parameters",
    "machine_target",
    "memory_parts",
    "moments_bytes",
    "parameters",
    "plain_stack_peak",
    "plan",
    "resident_bytes",
    "saved_layer_bytes",
    "suited_config",
    "weight_bytes",
    "with_preset",
    "working_bytes",
]
