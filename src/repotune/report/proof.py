"""The verdict, and the figures behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from repotune.records import (
    Compared,
    Evaluation,
    GroupFigures,
    Interval,
    LineGroup,
    Memorisation,
)
from repotune.report.contents import Contents, Lang
from repotune.report.tags import paragraph, section, table, text
from repotune.report.texts import TO, quoted, say
from repotune.verdict_text import headline, reason

GROUPS_SHOWN: Final = 12
_ONLY_IN_THE_TABLE: Final = ("infill_edit_similarity", "infill_name_recall")
_TONES: Final = {
    "better": "good", "worse": "bad", "worse_lines": "bad", "no_gain": "warn",
    "forgets": "warn", "too_few_files": "warn",
}  # fmt: skip


def verdict(run: Contents, lang: Lang) -> str:
    """The first thing that is read."""
    evaluation = run.evaluation
    if evaluation is None or evaluation.judgement is None:
        why = "not_evaluated" if run.has_adapter else "not_finished"
        tone, title = "warn", say("verdict_unknown", lang)
        because, figures = say(why, lang, run=quoted(run.path)), ""
    else:
        judgement = evaluation.judgement
        tone, title = _TONES[judgement.ruling], headline(judgement, lang)
        because = reason(evaluation, judgement, lang)
        figures = f'<dl class="figures">{"".join(_headline_figures(evaluation, lang))}</dl>'
    return (
        f'<section id="verdict" class="verdict {tone}">'
        f'<p class="label">{text(say("verdict", lang))}</p><h2>{text(title)}</h2>'
        f"{paragraph(because)}{figures}</section>"
    )


def figures(run: Contents, lang: Lang) -> str:
    """Every figure with its interval; empty if the run was not evaluated."""
    evaluation = run.evaluation
    if evaluation is None:
        return ""
    head = (say("what", lang), say("base", lang), say("tuned", lang), say("difference", lang))
    parts = [
        table(head, _figure_rows(evaluation, lang), numbers=frozenset({1, 2, 3})),
        paragraph(
            say(
                "sampled", lang, files=f"{evaluation.files:,}", tokens=f"{evaluation.tokens:,}",
                available=f"{evaluation.files_available:,}", cursors=f"{evaluation.cursors:,}",
                names=f"{evaluation.names:,}", gaps=f"{len(evaluation.infills):,}",
            ),
            "note",
        ),
        paragraph(say("no_near", lang, count=evaluation.left_out), "note"),
    ]  # fmt: skip
    parts += _forgetting(evaluation, lang)
    if evaluation.memorisation is not None:
        parts += _memorisation(evaluation.memorisation, lang)
    for by in ("language", "directory"):
        parts += _groups([one for one in evaluation.groups if one.by == by], by, lang)
        parts += _line_groups([one for one in evaluation.line_groups if one.by == by], by, lang)
    return section("figures", say("proof", lang), parts)


def _headline_figures(evaluation: Evaluation, lang: Lang) -> Iterator[str]:
    base, tuned = evaluation.base_bits_per_byte, evaluation.tuned_bits_per_byte
    yield _figure(
        f"{say('bits', lang)} ({say('bits_note', lang)})", f"{base:.3f}", f"{tuned:.3f}",
        f"{tuned / base - 1:+.1%}",
    )  # fmt: skip
    for name, shares in _line_figures(evaluation):
        if name in _ONLY_IN_THE_TABLE:
            continue
        yield _figure(
            say(name, lang), f"{shares['base']:.1%}", f"{shares['tuned']:.1%}",
            f"{100 * (shares['tuned'] - shares['base']):+.1f} pp",
        )  # fmt: skip


def _figure(name: str, base: str, tuned: str, change: str) -> str:
    return (
        f"<div><dt>{text(name)}</dt><dd>{text(base)} → <strong>{text(tuned)}</strong> "
        f"<small>{text(change)}</small></dd></div>"
    )


def _line_figures(evaluation: Evaluation) -> list[tuple[str, dict[str, float]]]:
    figures_of = {
        "exact_match": evaluation.exact_match,
        "edit_similarity": evaluation.edit_similarity,
        "name_recall": evaluation.name_recall,
        **{
            f"infill_{name}": {"base": one.base, "tuned": one.tuned}
            for name, one in evaluation.infill.items()
        },
    }
    return [(name, shares) for name, shares in figures_of.items() if shares]


def _intervals(evaluation: Evaluation) -> dict[str, Interval | None]:
    gaps = {f"infill_{name}": one.difference for name, one in evaluation.infill.items()}
    return {**evaluation.line_differences, **gaps}


def _figure_rows(evaluation: Evaluation, lang: Lang) -> Iterator[tuple[str, ...]]:
    yield (
        say("bits", lang),
        f"{evaluation.base_bits_per_byte:.4f}",
        f"{evaluation.tuned_bits_per_byte:.4f}",
        _bits(evaluation.difference),
    )
    for name, shares in _line_figures(evaluation):
        interval = _intervals(evaluation).get(name)
        # Those of older versions have neither groups nor intervals of lines.
        shown = say("too_few" if evaluation.groups else "not_computed", lang)
        if interval is not None and interval.low == interval.high == 0:
            shown = say("none_seen", lang)  # an interval without width would promise too much
        elif interval is not None:
            shown = _points(interval)
        yield say(name, lang), f"{shares['base']:.1%}", f"{shares['tuned']:.1%}", shown


def _forgetting(evaluation: Evaluation, lang: Lang) -> Iterator[str]:
    """What was measured on code and tasks that are not the user's."""
    found = evaluation.forgetting
    if found is None:
        return
    rows = []
    if found.library is not None:
        library = found.library
        base, tuned = library.base_bits_per_byte, library.tuned_bits_per_byte
        shown = f"{tuned / base - 1:+.1%}; {_bits(library.difference)}"
        rows.append((say("library", lang), f"{base:.4f}", f"{tuned:.4f}", shown))
    for one in found.tasks:
        change = say("lost_won", lang, lost=one.lost, won=one.won, p=f"{one.p_value:.3f}")
        base_share, tuned_share = (
            f"{passed} / {one.tasks}" for passed in (one.base_passed, one.tuned_passed)
        )
        rows.append((say(one.name, lang), base_share, tuned_share, change))
    yield f"<h3>{text(say('forgetting', lang))}</h3>"
    if rows:
        head = (say("what", lang), say("base", lang), say("tuned", lang), say("change", lang))
        yield table(head, rows, numbers=frozenset({1, 2, 3}))
        yield paragraph(say("forgetting_note", lang), "note")
    if found.not_measured:
        yield paragraph(say("not_all_measured", lang), "note")
        items = "".join(f"<li>{text(one)}</li>" for one in found.not_measured)
        yield f'<ul class="note" lang="en">{items}</ul>'


def _groups(groups: list[GroupFigures], by: str, lang: Lang) -> Iterator[str]:
    if not groups:
        return
    head = (
        say(by, lang), say("files", lang), say("base", lang), say("tuned", lang),
        say("difference", lang),
    )  # fmt: skip
    rows = [
        (
            one.name,
            f"{one.files:,}",
            f"{one.base_bits_per_byte:.4f}",
            f"{one.tuned_bits_per_byte:.4f}",
            _bits(one.difference) if one.difference else say("too_few", lang),
        )
        for one in groups[:GROUPS_SHOWN]
    ]
    yield f"<h3>{text(say(f'by_{by}', lang))}</h3>"
    yield table(head, rows, numbers=frozenset({1, 2, 3, 4}))
    if len(groups) > GROUPS_SHOWN:
        yield paragraph(say("more", lang, count=len(groups) - GROUPS_SHOWN), "note")


def _line_groups(groups: list[LineGroup], by: str, lang: Lang) -> Iterator[str]:
    """Exact matches of next lines and, where there are any, of gaps; of one group there is all."""
    if len(groups) < 2:
        return
    head = [say(by, lang), say("exact_match", lang), say("difference", lang)]
    has_gaps = any(one.infill for one in groups)
    if has_gaps:
        head += [say("infill_exact_match", lang), say("difference", lang)]
    rows = []
    for one in groups[:GROUPS_SHOWN]:
        gaps = _exact(one.infill, lang) if has_gaps else ()
        rows.append((one.name, *_exact(one.next_line, lang), *gaps))
    yield table(head, rows, numbers=frozenset(range(1, len(head))))


def _exact(figures: Mapping[str, Compared], lang: Lang) -> tuple[str, str]:
    if "exact_match" not in figures:
        return "–", "–"
    one = figures["exact_match"]
    difference = _points(one.difference) if one.difference else say("too_few", lang)
    return f"{one.base:.1%} → {one.tuned:.1%} ({one.count})", difference


def _points(interval: Interval) -> str:
    value, low, high = (100 * one for one in (interval.value, interval.low, interval.high))
    return f"{value:+.1f} pp ({low:+.1f}{TO}{high:+.1f})"


def _memorisation(found: Memorisation, lang: Lang) -> Iterator[str]:
    """Canaries against controls, by how often they were put in."""
    yield f"<h3>{text(say('memorisation', lang))}</h3>"
    seen = "memorised" if found.memorised else "not_memorised"
    yield paragraph(say(seen, lang, controls=found.controls, p=f"{found.p_value:.2g}"))
    chance = f"{found.exposure_by_chance:.1f}"
    names = ("repeats", "count", "bits", "p", "out")
    head = tuple(say(f"canary_{name}", lang, chance=chance) for name in names)
    rows = [
        (
            f"{one.repeats}×", str(one.canaries), f"{one.exposure:.1f}", f"{one.p_value:.2g}",
            str(one.extracted),
        )
        for one in found.figures
    ]  # fmt: skip
    yield table(head, rows, numbers=frozenset({1, 2, 3, 4}))


def _bits(interval: Interval) -> str:
    return f"{interval.value:+.4f} ({interval.low:+.4f}{TO}{interval.high:+.4f})"
