"""Which layers keep their activations, given the memory that is free."""

from __future__ import annotations

from itertools import pairwise

from repotune.errors import DoesNotFit
from repotune.planning.memory import resident_bytes, saved_layer_bytes, working_bytes
from repotune.records import LayerPolicy, LoraSpec, Policy, Saving, Shape

GIB = 2**30
LEVELS: tuple[Saving, ...] = ("input", "outputs", "attention", "all")
"""From least to most. A byte more saves about the same time at each of them: what is recomputed
is matmuls over the same input width, whose time and output both grow with their columns."""
WORDS: dict[Saving, str] = {
    "input": "only their input",
    "outputs": "their input and attention's output",
    "attention": "all but gate and up",
    "all": "everything",
}
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
    bytes_of = {
        one: saved_layer_bytes(shape, lora, one, tokens=tokens, itemsize=itemsize) for one in LEVELS
    }
    whole = bytes_of["all"]
    budget = int(free_bytes * USABLE) - fixed

    if not gradient_checkpointing:
        if layers * whole > budget:
            raise _does_not_fit(
                fixed + layers * whole, free_bytes, "Set gradient_checkpointing=True"
            )
        return _policy("all", layers, "all", "gradient_checkpointing is off: nothing is recomputed")
    if layers * whole <= budget:
        return _policy("all", layers, "all", "there is room to recompute nothing")
    # One layer at a time is whole again while its backward runs.
    budget -= whole
    if layers * bytes_of["input"] > budget:
        need = fixed + whole + layers * bytes_of["input"]
        raise _does_not_fit(need, free_bytes, f"Lower max_seq_length below {tokens}")
    low, high = next(
        (low, high) for low, high in pairwise(LEVELS) if layers * bytes_of[high] > budget
    )
    spare = budget - layers * bytes_of[low]
    return _policy(low, spare // (bytes_of[high] - bytes_of[low]), high, "", layers=layers)


def _policy(
    low: Saving, upper: int, high: Saving, reason: str, *, layers: int | None = None
) -> Policy:
    """The last ``upper`` layers save ``high``, since the backward needs them first."""
    layers = upper if layers is None else layers
    each = [low] * (layers - upper) + [high] * upper
    reason = reason or f"{upper} of {layers} layers save {WORDS[high]}, the others {WORDS[low]}"
    return Policy(layers=tuple(LayerPolicy(saving=one) for one in each), reason=f"{reason}.")


def _does_not_fit(need: int, free: int, way_out: str) -> DoesNotFit:
    usable = free * USABLE
    return DoesNotFit(
        f"The run needs {need / GIB:.1f} GiB and {usable / GIB:.1f} GiB of the "
        f"{free / GIB:.1f} GiB free can be used: {(need - usable) / GIB:.1f} GiB short. {way_out}, "
        "or choose a smaller model, or close other programs."
    )
