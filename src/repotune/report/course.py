"""How the run went: curves, memory, the plan against what happened, events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from repotune.report.contents import Contents, Lang
from repotune.report.curves import Curve, can_draw, draw, means_of, number
from repotune.report.metrics import Points
from repotune.report.tags import paragraph, section, table, text
from repotune.report.texts import TO, say

_GIB: Final = 2**30
_ROOM: Final = 1.08
"""The memory bar reaches a little past its largest figure."""


def curves(run: Contents, lang: Lang) -> str:
    """Loss, held-out loss, speed, learning rate, gradient norm; memory has a section of its own."""
    if not run.metrics.loss:
        return section("curves", say("curves", lang), [paragraph(say("no_steps", lang))])
    if not can_draw():
        return section("curves", say("curves", lang), [paragraph(say("no_library", lang))])
    notes = [say("x_steps", lang)]
    if means_of(run.metrics.loss) > 1:
        notes.append(say("averaged", lang, count=means_of(run.metrics.loss)))
    if not run.metrics.heldout_loss:
        notes.append(say("no_heldout", lang))
    charts = f'<div class="charts">{"".join(_charts(run, lang))}</div>'
    return section("curves", say("curves", lang), [charts, paragraph(" ".join(notes), "note")])


def memory(run: Contents, lang: Lang) -> str:
    """What was taken against the prediction: step by step, and the peak as a bar."""
    peak, curve = _planned(run, "peak_gib"), _memory_curve(run, lang)
    bar = paragraph(say("no_memory", lang)) if peak is None else _memory_bar(run, peak, lang)
    if not curve:
        unknown = run.metrics.loss and not run.metrics.memory_bytes
        note = paragraph(say("no_memory_curve", lang), "note") if unknown else ""
        return section("memory", say("memory", lang), [bar, note])
    note = "" if peak is None else paragraph(say("memory_note", lang), "note")
    both = f'<div class="charts">{curve}<div>{bar}{note}</div></div>'
    return section("memory", say("memory", lang), [both])


def _memory_curve(run: Contents, lang: Lang) -> str:
    """Empty where it was not recorded or cannot be drawn."""
    if not run.metrics.memory_bytes or not can_draw():
        return ""
    context = (run.state.facts.get("plan") or {}).get("context_bytes", 0)
    taken = tuple((step, (one + context) / _GIB) for step, one in run.metrics.memory_bytes)
    most = say("at_most", lang, value=number(max(one for _, one in taken)))
    return _planned_chart(run, "peak_gib", Curve(points=taken, largest=True), most, lang)


def _memory_bar(run: Contents, peak: Mapping[str, float], lang: Lang) -> str:
    machine = run.state.facts.get("machine", {})
    where = "memory_gpu" if machine.get("gpu") else "memory_ram"
    free = machine.get("gpu_free_bytes" if machine.get("gpu") else "ram_free_bytes")
    measured = _measured_gib(run)
    line = say(
        "memory_line", lang, where=say(where, lang), expected=f"{peak['expected']:.2f}",
        low=f"{peak['low']:.2f}", high=f"{peak['high']:.2f}",
        measured=say("not_measured", lang)
        if measured is None
        else say("measured_gib", lang, gib=f"{measured:.2f}"),
        free="?" if free is None else f"{free / _GIB:.1f}",
    )  # fmt: skip
    full = max(peak["high"], measured or 0.0, 1e-9) * _ROOM
    low, high, expected = (peak[name] / full for name in ("low", "high", "expected"))
    done = (
        ""
        if measured is None
        else f'<span class="done" style="width:{measured / full:.2%}"></span>'
    )
    return (
        f'<div class="memory" role="img" aria-label="{text(line)}">{done}'
        f'<span class="range" style="left:{low:.2%};width:{high - low:.2%}"></span>'
        f'<span class="tick" style="left:{expected:.2%}"></span></div>'
        f'<p class="key"><span class="done"></span>{text(say("happened", lang))} '
        f'<span class="range"></span>{text(say("legend_plan", lang))}</p>{paragraph(line)}'
    )


def plan(run: Contents, lang: Lang) -> str:
    """A table: planned, happened, and whether that is in the planned range."""
    facts = run.state.facts
    if not isinstance(facts.get("plan"), Mapping):
        return section("plan", say("plan", lang), [paragraph(say("no_plan", lang))])
    head = tuple(say(name, lang) for name in ("what", "planned", "happened", "within"))
    parts = [table(head, _plan_rows(run, lang), numbers=frozenset({1, 2, 3}))]
    if facts["plan"].get("hours_by_stage"):
        parts.append(paragraph(say("not_counted", lang), "note"))
    policy = facts.get("policy", {}).get("reason")
    if policy:
        parts.append(f'<p>{text(say("policy", lang))}: <span lang="en">{text(policy)}</span></p>')
    return section("plan", say("plan", lang), parts)


def events(run: Contents, lang: Lang) -> str:
    """What was healed, skipped, or ended early."""
    found = list(_events(run, lang))
    if not found:
        return section("events", say("events", lang), [paragraph(say("no_events", lang))])
    items = "".join(f"<li>{text(one)}</li>" for one in found)
    return section("events", say("events", lang), [f"<ul>{items}</ul>"])


def _charts(run: Contents, lang: Lang) -> Iterator[str]:
    metrics = run.metrics
    lines, key = [Curve(points=metrics.loss)], ""
    if metrics.heldout_loss:
        lines.append(Curve(points=metrics.heldout_loss, colour="second", marked=True))
        key = _key("first", say("legend_train", lang)) + _key("second", say("legend_heldout", lang))
    yield _chart("loss", lines, _span(metrics.loss), lang, key=key)
    speeds = metrics.tokens_per_second
    if speeds:
        yield _planned_chart(run, "tokens_per_second", Curve(points=speeds), _span(speeds), lang)
    for name, points in (
        ("learning_rate", metrics.learning_rate),
        ("grad_norm", metrics.grad_norm),
    ):
        if points:
            yield _chart(name, [Curve(points=points)], _span(points), lang)


def _planned_chart(run: Contents, name: str, line: Curve, note: str, lang: Lang) -> str:
    planned = _planned(run, name)
    if planned is None:
        return _chart(name, [line], note, lang)
    band = (planned["low"], planned["expected"], planned["high"])
    key = _key("band", say("legend_plan", lang))
    return _chart(name, [line], note, lang, key=key, band=band)


def _span(points: Points) -> str:
    return f"{number(points[0][1])} → {number(points[-1][1])}"


def _chart(
    name: str, lines: list[Curve], span: str, lang: Lang, *, key: str = "",
    band: tuple[float, float, float] | None = None,
) -> str:  # fmt: skip
    title = say(name, lang)
    return (
        f'<figure role="img" aria-label="{text(title)}: {text(span)}">'
        f"<figcaption><b>{text(title)}</b> <small>{text(span)}</small>"
        f"{f'<div class=key>{key}</div>' if key else ''}</figcaption>"
        f"{draw(lines, salt=name, band=band)}</figure>"
    )


def _key(kind: str, name: str) -> str:
    return f'<span class="{kind}"></span>{text(name)} '


def _plan_rows(run: Contents, lang: Lang) -> Iterator[tuple[str, ...]]:
    outcome = run.state.facts.get("outcome") or {}
    rows = (
        ("peak", _planned(run, "peak_gib"), _measured_gib(run), 2),
        (
            "speed",
            _planned(run, "tokens_per_second"),
            outcome.get("measured_tokens_per_second"),
            0,
        ),
    )
    for name, planned, happened, digits in rows:
        if planned is not None:
            yield _plan_row(name, planned, happened, digits, lang)
    steps = run.state.facts["plan"].get("steps")
    if steps is not None:
        yield say("steps", lang), f"{steps:,}", f"{run.metrics.steps:,}", ""
    yield from _time_rows(run, lang)


def _time_rows(run: Contents, lang: Lang) -> Iterator[tuple[str, ...]]:
    """Minutes of each stage, and of all where all were timed; plans of older versions have only
    the sum, and runs of older versions only the steps. A resumed run has more starts than its
    plan."""
    facts = run.state.facts
    took, stages = facts.get("took", {}), facts["plan"].get("hours_by_stage", {})
    seconds = {**took, "training": run.metrics.training_seconds or None}
    again = facts.get("starts", 1) > 1 or bool(facts.get("resumed"))
    for name, planned in stages.items():
        if planned["expected"]:
            minutes = {key: 60 * hours for key, hours in planned.items()}
            happened = seconds.get(name)
            row = _plan_row(f"{name}_minutes", minutes, happened and happened / 60, 1, lang)
            yield (*row[:3], "") if again and name == "start" else row
        if name == "start" and "rehearsal" in took:
            yield say("rehearsal_minutes", lang), "", f"{took['rehearsal'] / 60:,.1f}", ""
    whole = _planned(run, "hours")
    if whole is not None:
        parts = [seconds.get(name) for name, one in stages.items() if one["expected"]]
        known = [one for one in parts if one is not None]
        total = sum(known) / 60 if known and len(known) == len(parts) else None
        minutes = {key: 60 * hours for key, hours in whole.items()}
        row = _plan_row("all_minutes", minutes, total, 1, lang)
        yield (*row[:3], "") if again else row


def _plan_row(
    name: str, planned: Mapping[str, float], happened: float | None, digits: int, lang: Lang
) -> tuple[str, ...]:
    shown = say("not_measured", lang) if happened is None else f"{happened:,.{digits}f}"
    within = ""
    if happened is not None:
        within = say("yes" if planned["low"] <= happened <= planned["high"] else "no", lang)
    return say(name, lang), _range(planned, digits), shown, within


def _range(planned: Mapping[str, float], digits: int) -> str:
    low, expected, high = (f"{planned[one]:,.{digits}f}" for one in ("low", "expected", "high"))
    return f"{expected} ({low}{TO}{high})"


def _planned(run: Contents, name: str) -> dict[str, float] | None:
    """A quantity of the plan as {low, expected, high}, if the run has one."""
    found = (run.state.facts.get("plan") or {}).get(name)
    return found if isinstance(found, dict) and {"low", "expected", "high"} <= set(found) else None


def _measured_gib(run: Contents) -> float | None:
    found: Any = (run.state.facts.get("outcome") or {}).get("measured_peak_bytes")
    return None if found is None else found / _GIB


def _events(run: Contents, lang: Lang) -> Iterator[str]:
    metrics, training = run.metrics, run.state.facts.get("training") or {}
    for one in run.state.facts.get("healed", []):
        if one.get("stage") == "rehearsal":
            yield say("healed_before", lang, remedy=one["remedy"])
    yield from (say("resumed", lang, step=step) for step in run.state.facts.get("resumed", []))
    yield from (say("healed", lang, step=step, remedy=remedy) for step, remedy in metrics.healed)
    if metrics.overflows:
        yield say("overflows", lang, count=metrics.overflows)
    if training.get("best_step") is not None:
        loss = training.get("heldout_loss")
        shown = "?" if loss is None else f"{loss:.4f}"
        yield say("best_step", lang, step=training["best_step"], loss=shown)
    if training.get("stopped_early"):
        yield say("stopped_early", lang)
    if metrics.unreadable:
        yield say("unreadable", lang, count=metrics.unreadable)
    yield from run.damaged
