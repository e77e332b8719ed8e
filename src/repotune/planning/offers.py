"""What a job takes and costs on each cloud offer."""

from __future__ import annotations

from collections.abc import Sequence

from repotune.config import FineTuningConfig
from repotune.planning.cost import offer_cost
from repotune.planning.fit import fit, nearest
from repotune.planning.plan import suited_config
from repotune.planning.target import gpu_target
from repotune.planning.times import Workload, run_times
from repotune.records import CloudOffer, Gpu, OfferCost, Range, Shape, Verdict


def offer_costs(
    offers: Sequence[tuple[CloudOffer, Gpu]], *, model: str, shape: Shape,
    config: FineTuningConfig | None, workload: Workload,
) -> tuple[OfferCost, ...]:  # fmt: skip
    """The job as it would really run on each offer's GPU; those that cannot do it too.

    ``config`` None: the settings that ``tune`` takes on that GPU. Settings that do not fit give way
    to the nearest that do, as everywhere.
    """
    done: dict[str, tuple[Verdict, Range]] = {}
    for _, gpu in offers:
        if gpu.name not in done:
            done[gpu.name] = _on(gpu, model, shape, config, workload)
    return tuple(offer_cost(offer, model, *done[gpu.name]) for offer, gpu in offers)


def _on(
    gpu: Gpu, model: str, shape: Shape, config: FineTuningConfig | None, workload: Workload
) -> tuple[Verdict, Range]:
    target = gpu_target(gpu)
    chosen = config or suited_config(model, shape, target, FineTuningConfig())
    one = fit(shape, chosen, target)
    if one.policy is None and (other := nearest(shape, target, chosen)) is not None:
        chosen, _, one = other
    if one.policy is None:
        return one.verdict, Range(low=0.0, expected=0.0, high=0.0)
    return one.verdict, run_times(shape, chosen, one, target, workload).hours
