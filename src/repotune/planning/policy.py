"""Which layers keep their activations, given the memory that is free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Final

from repotune.errors import DoesNotFit
from repotune.planning.memory import (
    STAGED_LAYERS,
    expanded_layer_bytes,
    moments_bytes,
    saved_layer_bytes,
    shared_bytes,
)
from repotune.planning.setup import Device, Setup, packed_documents
from repotune.records import LayerPolicy, Policy, Saving

GIB: Final = 2**30
LEVELS: Final[tuple[Saving, ...]] = ("input", "outputs", "attention", "all")
"""From least to most. A byte more saves about the same time at each of them: what is recomputed
is matmuls over the same input width, whose time and output both grow with their columns."""
WORDS: Final[dict[Saving, str]] = {
    "input": "only their input",
    "outputs": "their input and attention's output",
    "attention": "all but gate and up",
    "all": "everything",
}
USABLE: Final[dict[Device, float]] = {"cpu": 0.85, "cuda": 0.92}
"""Share of the free memory that a run may plan with; the rest is for what else the system does. A
GPU is shared with less, and the allocator's slack is a term of its own."""
LEAST_TOKENS: Final = 256
"""Of a pass that is proposed where more do not fit: shorter rows teach little."""
HOST_SHARE: Final = 0.5
"""Of the free host memory, at most this much is pinned: what is pinned cannot be swapped."""


def choose_policy(
    setup: Setup, *, free_bytes: int, gradient_checkpointing: bool, host_free_bytes: int = 0
) -> Policy:
    """Recompute as few layers as the budget asks for; none without ``gradient_checkpointing``.

    ``free_bytes`` is what is free before the model is loaded and, on CUDA, after the context is
    made. Where ``host_free_bytes`` says that there is host memory to use, saved tensors are moved
    there before anything but attention's output is given up, and at the last the optimizer's
    moments. Raises DoesNotFit, before anything is loaded, with the numbers and the way out.
    """
    layers = setup.shape.num_hidden_layers
    bytes_of = {one: _layer_bytes(setup, one) for one in LEVELS}
    budget = int(free_bytes * USABLE[setup.device])
    whole = _around(setup, {"all"}) + layers * bytes_of["all"]
    if not gradient_checkpointing:
        if whole > budget:
            way_out = "Set gradient_checkpointing to true, as --resume also allows"
            raise _does_not_fit(whole, free_bytes, setup, way_out)
        return _whole(setup, budget - whole, "gradient_checkpointing is off: nothing is recomputed")
    if whole <= budget:
        return _whole(setup, budget - whole, "there is room to recompute nothing")
    if found := _fitting(setup, budget, host_free_bytes):
        return found
    moments = moments_bytes(setup)
    beside = host_free_bytes - round(moments / HOST_SHARE)
    if beside > 0 and (found := _fitting(setup, budget + moments, beside)):
        reason = f"{found.reason[:-1]}; the optimizer's moments wait in host memory."
        return replace(found, reason=reason, optimizer_offloaded=True)
    need = needed_bytes(setup, host_free_bytes=host_free_bytes)
    raise _does_not_fit(need, free_bytes, setup, _way_out(setup, budget, host_free_bytes))


def needed_bytes(setup: Setup, *, host_free_bytes: int = 0) -> int:
    """The least that a step needs on the device: with as many layers' saved tensors on the host as
    there is room for, and the optimizer's moments, where moving them away spares more."""
    layers, moments = setup.shape.num_hidden_layers, moments_bytes(setup)
    host = int(host_free_bytes * HOST_SHARE)

    def need(saving: Saving, moved: int) -> int:
        each = _layer_bytes(setup, saving)
        away = min(layers, (host - moved) // each)
        held = min(layers, layers - away + STAGED_LAYERS)
        return _around(setup, {saving}) + held * each - moved

    # Where it is moved away, saving attention's output too may take less than computing it again.
    tried = product(LEVELS[:2], (0, moments) if moments < host else (0,))
    return min(need(saving, moved) for saving, moved in tried)


def _whole(setup: Setup, spare_bytes: int, reason: str) -> Policy:
    """Everything saved, and what is left of the memory spent on weights in 16 bits."""
    layers, each = setup.shape.num_hidden_layers, expanded_layer_bytes(setup)
    count = min(layers, spare_bytes // each) if each else 0
    if count:
        whose = "the weights" if count == layers else f"those of {count} of {layers} layers"
        reason += f"; {whose} are kept in 16 bits too"
    policies = [LayerPolicy(saving="all", expanded=index < count) for index in range(layers)]
    return _policy(policies, reason)


def _fitting(setup: Setup, budget: int, host_free_bytes: int) -> Policy | None:
    """What recomputes least of all that fit, None if nothing does."""
    for high in LEVELS[:1:-1]:
        if mixed := _mixed(setup, high, budget):
            return mixed
    if host_free_bytes and (offloaded := _offloaded(setup, budget, host_free_bytes)):
        return offloaded
    return _mixed(setup, "outputs", budget)


def _mixed(setup: Setup, high: Saving, budget: int) -> Policy | None:
    """As many layers at ``high`` as fit, the others a level lower; None if not even that fits."""
    low = LEVELS[LEVELS.index(high) - 1]
    layers = setup.shape.num_hidden_layers
    least, more = _layer_bytes(setup, low), _layer_bytes(setup, high)
    if _around(setup, {high}) + layers * more <= budget:
        upper = layers
    else:
        upper = (budget - _around(setup, {low, high}) - layers * least) // (more - least)
        upper = min(upper, layers - 1)
    if upper < 1:
        if _around(setup, {low}) + layers * least > budget:
            return None
        upper = 0
    # The last layers, since the backward needs them first.
    each = [LayerPolicy(saving=low)] * (layers - upper) + [LayerPolicy(saving=high)] * upper
    if upper in (0, layers):
        return _policy(each, f"all layers save {WORDS[high if upper else low]}")
    return _policy(each, f"{upper} of {layers} layers save {WORDS[high]}, the others {WORDS[low]}")


def _offloaded(setup: Setup, budget: int, host_free_bytes: int) -> Policy | None:
    """As few layers in host memory as the budget asks for; the first, which are needed last."""
    layers = setup.shape.num_hidden_layers
    for saving in LEVELS[1::-1]:
        each = _layer_bytes(setup, saving)
        room = (budget - _around(setup, {saving})) // each - STAGED_LAYERS
        away = layers - max(0, room)
        if room < 0 or away <= 0 or away * each > host_free_bytes * HOST_SHARE:
            continue
        policies = [LayerPolicy(saving=saving, offloaded=index < away) for index in range(layers)]
        return _policy(
            policies,
            f"all layers save {WORDS[saving]}, {away} of {layers} in host memory "
            f"({away * each / GIB:.1f} GiB)",
        )
    return None


def _around(setup: Setup, savings: set[Saving]) -> int:
    """What is there beside the saved tensors. On a CPU one layer at a time is whole again while
    its backward runs; on CUDA that is in the scratch."""
    shared = shared_bytes(setup, frozenset(savings))
    if setup.device == "cpu" and savings != {"all"}:
        shared += _layer_bytes(setup, "all")
    return shared


def _layer_bytes(setup: Setup, saving: Saving) -> int:
    return saved_layer_bytes(
        setup.shape, setup.lora, saving, tokens=setup.tokens, itemsize=setup.itemsize,
        is_fused=setup.is_fused,
    )  # fmt: skip


def _policy(each: Sequence[LayerPolicy], reason: str) -> Policy:
    return Policy(layers=tuple(each), reason=f"{reason}.")


def _way_out(setup: Setup, budget: int, host_free_bytes: int) -> str:
    """The largest pass that would fit, else the smallest device that the smallest would."""
    on_gpu = setup.device == "cuda"
    what = "batch_size × max_seq_length" if on_gpu else "max_seq_length"
    smaller = replace(setup, use_4bit=on_gpu)
    quantise = "Set use_4bit=True" if smaller != setup else ""
    tokens = setup.tokens
    while tokens >= LEAST_TOKENS:
        lower = f"lower {what} from {setup.tokens:,} to {tokens:,}" if tokens < setup.tokens else ""
        for one, change in ((setup, ""), (smaller, quantise)):
            if needed_bytes(_of(one, tokens), host_free_bytes=host_free_bytes) <= budget:
                words = " and ".join(filter(None, (change, lower)))
                return words[0].upper() + words[1:]
        tokens //= 2
    tokens = min(setup.tokens, LEAST_TOKENS)
    least = needed_bytes(_of(smaller, tokens), host_free_bytes=host_free_bytes)
    device = "a GPU" if on_gpu else "a computer"
    return (
        f"Even {tokens} tokens at a time need {least / GIB:.1f} GiB: use {device} with at least "
        f"{least / USABLE[setup.device] / GIB:.1f} GiB free"
    )


def _of(setup: Setup, tokens: int) -> Setup:
    """The same with ``tokens`` in flight; with fewer of them, in one row."""
    if tokens == setup.tokens or setup.documents is None:
        return replace(setup, tokens=tokens)
    return replace(setup, tokens=tokens, documents=packed_documents(tokens, 1))


def _does_not_fit(need: int, free: int, setup: Setup, way_out: str) -> DoesNotFit:
    usable = free * USABLE[setup.device]
    return DoesNotFit(
        f"The run needs {need / GIB:.1f} GiB and {usable / GIB:.1f} GiB of the "
        f"{free / GIB:.1f} GiB free can be used: {(need - usable) / GIB:.1f} GiB short. {way_out}, "
        "or choose a smaller model, or close other programs."
    )
