"""How rows go through the model: as planned, as memory allowed before, or with less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from repotune.errors import DoesNotFit
from repotune.job.settled import Job
from repotune.records import LayerPolicy, Passes, Policy

FINER_BUDGET = 0.99
"""Of the memory that the planner was asked about before, until it has nothing more to offer."""
WORTH_A_TRY = 0.8
"""Less of what was kept is worth another try of the step; a failing one costs most of a step."""


def first_passes(job: Job, facts: Mapping[str, Any]) -> Passes:
    """How a run begins: as planned, or as memory allowed when it ran here before.

    ``facts`` are those that the run had recorded, see ``healed_passes``. Raises DoesNotFit, before
    anything is loaded.
    """
    healed = healed_passes(job, facts)
    if healed is None:
        return Passes(policy=plan_policy(job), rows=job.rows_per_pass)
    tokens = healed.rows * job.config.max_seq_length // healed.cuts
    planned = plan_policy(job, tokens)  # less may be free than there was
    if _kept_bytes(job, tokens, planned) < _kept_bytes(job, tokens, healed.policy):
        return replace(healed, policy=planned)
    return healed


def healed_passes(job: Job, facts: Mapping[str, Any]) -> Passes | None:
    """How the run went on when memory had run out; None if it never did on this machine."""
    found = facts.get("passes")
    if found is None or not job.is_where(facts):
        return None
    policy = found["policy"]
    layers = tuple(LayerPolicy(**layer) for layer in policy["layers"])
    return Passes(**{**found, "policy": Policy(**{**policy, "layers": layers})})


def plan_policy(job: Job, tokens: int | None = None) -> Policy:
    """What each layer does with its activations; ``tokens`` of a pass, None: all that are usual.

    Raises DoesNotFit, before anything is loaded.
    """
    from repotune.machine import who_holds_the_gpu

    machine = job.machine
    free = machine.gpu_free_bytes if machine.gpu else machine.ram_free_bytes
    try:
        return _choose(job, tokens or job.rows_per_pass * job.config.max_seq_length, free)
    except DoesNotFit as error:
        others = who_holds_the_gpu() if machine.gpu else ""
        raise DoesNotFit(" ".join(filter(None, (str(error), others)))) from None


def lower_policy(job: Job, tokens: int, than: Policy | None) -> Policy | None:
    """The best policy for ``tokens`` a pass that keeps less on the device than ``than`` does.

    ``than`` None: the best that the memory there is allows. None if there is no such policy.
    """
    from repotune.machine import gpu_room

    machine = job.machine
    free = min(machine.gpu_free_bytes, gpu_room()) if machine.gpu else machine.ram_free_bytes
    before = math.inf if than is None else _kept_bytes(job, tokens, than)
    best: Policy | None = None
    while free:
        try:
            policy = _choose(job, tokens, free)
        except DoesNotFit:
            break
        kept = _kept_bytes(job, tokens, policy)
        if kept < before:
            best = policy
            if kept < WORTH_A_TRY * before:
                break
        free = int(free * FINER_BUDGET)
    return best


def _choose(job: Job, tokens: int, free_bytes: int) -> Policy:
    from repotune.planning import choose_policy

    return choose_policy(
        job.setup_of(tokens),
        free_bytes=free_bytes,
        gradient_checkpointing=job.config.gradient_checkpointing,
        host_free_bytes=job.machine.ram_free_bytes if job.machine.gpu else 0,
    )


def _kept_bytes(job: Job, tokens: int, policy: Policy) -> int:
    """What another policy may have: saved tensors, 16-bit copies, the optimizer's moments."""
    from repotune.planning import expanded_bytes, moments_bytes, saved_layer_bytes

    setup = job.setup_of(tokens)
    moments = 0 if policy.optimizer_offloaded else moments_bytes(setup)
    return moments + expanded_bytes(setup, policy) + sum(
        saved_layer_bytes(
            job.shape, job.lora, layer.saving, tokens=tokens, itemsize=setup.itemsize,
            is_fused=setup.is_fused,
        )
        for layer in policy.layers
        if not layer.offloaded
    )  # fmt: skip
