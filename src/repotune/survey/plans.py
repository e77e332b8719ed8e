"""The plans that a user asked for: one, and those to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from repotune.config import FineTuningConfig
from repotune.planning import (
    Target,
    Workload,
    duration,
    gpu_target,
    offer_costs,
    plan,
    smaller_model,
    suited_config,
    with_preset,
)
from repotune.planning.plan import PRESET_MODELS
from repotune.records import Alternative, OfferCost, Plan
from repotune.survey.subject import Subject, all_subjects
from repotune.tables import PRICES_CHANGE, clouds, find_gpu, find_preset, gpus

PRESET_FIELDS: Final = (
    "batch_size", "gradient_accumulation_steps", "max_seq_length", "use_4bit",
)  # fmt: skip


def plans(
    target: Target, subject: Subject, config: FineTuningConfig | None, workload: Workload, *,
    rented: Subject, price_per_kwh: float, across: Literal["gpus", "models"] | None,
    notes: Sequence[str],
) -> tuple[Plan, ...]:  # fmt: skip
    """The plan of ``subject`` on ``target``, and those to compare it with.

    The first has the cloud offers, with ``rented``: the model that ``tune`` would take there.
    """
    costs = offer_costs(
        [(offer, find_gpu(offer.gpu).gpu) for offer in clouds()],
        model=rented.name, shape=rented.shape, config=config,
        workload=_with_gaps(workload, rented.fim, config),
    )  # fmt: skip

    def on(target: Target, subject: Subject, offers: Sequence[OfferCost] = ()) -> Plan:
        return _plan_for(
            target, subject, config, workload, price_per_kwh=price_per_kwh, offers=offers,
            notes=[*notes, PRICES_CHANGE],
        )  # fmt: skip

    asked = on(target, subject, costs)
    if across == "gpus":
        return asked, *(on(gpu_target(row), rented) for row in gpus())
    if across == "models":
        return asked, *(on(target, one) for one in all_subjects())
    return (asked,)


def _plan_for(
    target: Target, subject: Subject, config: FineTuningConfig | None, workload: Workload, *,
    price_per_kwh: float, offers: Sequence[OfferCost], notes: Sequence[str],
) -> Plan:  # fmt: skip
    """``config`` None: the settings that suit the device."""
    base = config or suited_config(subject.name, subject.shape, target, FineTuningConfig())
    made = plan(
        model=subject.name,
        shape=subject.shape,
        download_bytes=subject.download_bytes,
        target=target,
        config=base.merged({"model": subject.name}),
        workload=_with_gaps(workload, subject.fim, base),
        price_per_kwh=price_per_kwh,
        offers=offers,
        notes=notes,
    )
    if made.verdict != "does_not_fit":
        return replace(made, notes=(*made.notes, _why(target, subject, config, base)))
    if made.nearest is None:
        return replace(made, nearest=_smaller(target, subject, base, workload))
    return made


def _with_gaps(workload: Workload, fim: bool | None, config: FineTuningConfig | None) -> Workload:
    """Gaps are filled by a model that has tokens for it (``fim`` None: unknown), or is taught."""
    taught = config is not None and config.fim_tokens == "add"
    return replace(workload, fills_in=taught or fim is not False)


def _why(
    target: Target, subject: Subject, given: FineTuningConfig | None, taken: FineTuningConfig
) -> str:
    """Where the settings come from, one sentence."""
    if given is not None:
        return "The settings are those that were given."
    if target.device == "cpu":
        return "The settings are the defaults; a processor takes one row at a time."
    preset = find_preset(target.name) if subject.name.startswith(PRESET_MODELS) else None
    if preset is not None and preset.from_page and with_preset(taken, preset) == taken:
        return f"The settings are the preset of the requirements page for the {target.name}."
    return (
        "The settings are the planner's: the longest rows that fit, then the largest batch that "
        "costs no speed, 16 rows a step; 16-bit weights where they are about as fast as 4-bit ones."
    )


def _smaller(
    target: Target, subject: Subject, base: FineTuningConfig, workload: Workload
) -> Alternative | None:
    """A smaller model, where no setting makes the one asked for fit."""
    found = smaller_model(subject.shape, target, base)
    if found is None:
        return None
    one, config = found
    made = plan(
        model=one.name, shape=one.shape, download_bytes=one.download_bytes, target=target,
        config=config, workload=_with_gaps(workload, one.fim, config),
    )  # fmt: skip
    return Alternative(
        changes={"model": one.name, **{name: made.config[name] for name in PRESET_FIELDS}},
        peak_vram_gib=made.peak_vram_gib,
        hours=made.hours,
        reason=f"No settings make {subject.name} fit; {one.name} (licence: {one.licence}) fits "
        f"with max_seq_length = {config.max_seq_length} and takes {duration(made.hours)}.",
    )
