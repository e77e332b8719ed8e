"""Will it fit, how long, what it costs; which layers keep their activations.

``memory`` and ``speed`` are the two models, term by term, of a ``setup``; ``rates`` and ``target``
say what a device can do, ``policy`` and ``fit`` what suits it, ``times`` how long its stages take
(of the evaluation by its ``extent``), ``plan`` puts it together with ``cost``;
``offers`` are the same job on rented GPUs, ``smaller`` what to take where nothing fits.
``plain_stack`` is the memory of what people run today. No torch here: a plan needs
``records.Shape``, never the model.
"""

from repotune.planning.duration import brief, duration, span
from repotune.planning.extent import (
    CPU_CACHE_BYTES,
    GAP_TOKENS,
    GPU_CACHE_SHARE,
    LINE_TOKENS,
    ON_CPU,
    ON_GPU,
    Extent,
)
from repotune.planning.fit import fastest, fit
from repotune.planning.memory import (
    expanded_bytes,
    memory_parts,
    moments_bytes,
    saved_layer_bytes,
    weight_bytes,
)
from repotune.planning.offers import offer_costs
from repotune.planning.plain_stack import PlainRun, plain_stack_peak
from repotune.planning.plan import (
    chosen_config,
    disk,
    least_gpu_bytes,
    plan,
    suited_config,
    with_preset,
)
from repotune.planning.policy import choose_policy
from repotune.planning.setup import Setup, lora_parameters, packed_documents, parameters
from repotune.planning.smaller import smaller_model
from repotune.planning.target import FUSED_SINCE, Target, gpu_context, gpu_target, machine_target
from repotune.planning.times import BYTES_PER_TOKEN, Workload

__all__ = [
    "BYTES_PER_TOKEN",
    "CPU_CACHE_BYTES",
    "FUSED_SINCE",
    "GAP_TOKENS",
    "GPU_CACHE_SHARE",
    "LINE_TOKENS",
    "ON_CPU",
    "ON_GPU",
    "Extent",
    "PlainRun",
    "Setup",
    "Target",
    "Workload",
    "brief",
    "choose_policy",
    "chosen_config",
    "disk",
    "duration",
    "expanded_bytes",
    "fastest",
    "fit",
    "gpu_context",
    "gpu_target",
    "least_gpu_bytes",
    "lora_parameters",
    "machine_target",
    "memory_parts",
    "moments_bytes",
    "offer_costs",
    "packed_documents",
    "parameters",
    "plain_stack_peak",
    "plan",
    "saved_layer_bytes",
    "smaller_model",
    "span",
    "suited_config",
    "weight_bytes",
    "with_preset",
]
