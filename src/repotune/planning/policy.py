"""Which layers keep their activations, given the memory that is free."""

from __future__ import annotations

from repotune.errors import DoesNotFit
from repotune.planning.memory import resident_bytes, saved_layer_bytes, working_bytes
from repotune.records import LayerPolicy, LoraSpec, Policy, Shape

GIB = 2**30
USABLE = 0.85
"""Share of the free memory that a run may plan with; the rest is for what else the system does."""


def choose_policy(
    shape: Shape,
    lora: LoraSpec,
    *,
    tokens: int,
    itemsize: int,
    free_bytes: int,
    gradient_checkpointing: bool,
) -> Policy:
    """Recompute as few layers as the budget asks for; none without ``gradient_checkpointing``.

    ``tokens`` is the length of the row that is in flight, ``itemsize`` the bytes of a number in the
    compute precision, ``free_bytes`` what is free before the model is loaded. Raises DoesNotFit,
    before anything is loaded, with the numbers and the way out.
    """
    layers = shape.num_hidden_layers
    fixed = resident_bytes(shape, lora, itemsize=itemsize)
    fixed += working_bytes(shape, tokens=tokens, itemsize=itemsize)
    kept = saved_layer_bytes(shape, lora, tokens=tokens, itemsize=itemsize)
    inputs = tokens * itemsize * shape.hidden_size
    budget = int(free_bytes * USABLE) - fixed

    if not gradient_checkpointing:
        if layers * kept > budget:
            raise _does_not_fit(
                fixed + layers * kept, free_bytes, "Set gradient_checkpointing=True"
            )
        return Policy(
            layers=_kept_from(0, layers), reason="gradient_checkpointing is off: all kept."
        )
    # One layer at a time is whole again while its backward runs, kept or recomputed.
    spare = budget - layers * inputs - kept
    if spare < 0:
        raise _does_not_fit(
            fixed + layers * inputs + kept, free_bytes, f"Lower max_seq_length below {tokens}"
        )
    n = min(layers, spare // max(1, kept - inputs))
    reason = f"{n} of {layers} layers keep their activations, {kept / 2**20:.0f} MiB each."
    # The last layers are the first that the backward needs.
    return Policy(layers=_kept_from(layers - n, layers), reason=reason)


def _kept_from(first: int, layers: int) -> tuple[LayerPolicy, ...]:
    return tuple("keep" if layer >= first else "recompute" for layer in range(layers))


def _does_not_fit(need: int, free: int, way_out: str) -> DoesNotFit:
    usable = free * USABLE
    return DoesNotFit(
        f"The run needs {need / GIB:.1f} GiB and {usable / GIB:.1f} GiB of the "
        f"{free / GIB:.1f} GiB free can be used: {(need - usable) / GIB:.1f} GiB short. {way_out}, "
        "or choose a smaller model, or close other programs."
    )
