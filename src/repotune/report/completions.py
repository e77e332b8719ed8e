"""What base and tuned wrote at held-out places, beside what stood there: a sample of all places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

from repotune.records import Completion
from repotune.report.contents import Contents, Lang
from repotune.report.difference import difference
from repotune.report.tags import paragraph, section, text
from repotune.report.texts import say

SHOWN: Final = 20
GAPS_SHOWN: Final = 10
"""Of ``SHOWN``, where there are as many."""
LINES_ABOVE: Final = 4
_CURSOR: Final = '<span class="cursor"></span>'


def completions(run: Contents, lang: Lang) -> str:
    """Next lines, then gaps; empty if the run was not evaluated."""
    evaluation = run.evaluation
    if evaluation is None:
        return ""
    title = say("completions", lang)
    lines, gaps = evaluation.completions, evaluation.infills
    if not lines and not gaps:
        return section("completions", title, [paragraph(say("no_completions", lang))])
    gap_count = min(len(gaps), max(GAPS_SHOWN, SHOWN - len(lines)))
    parts = [paragraph(say("completions_note", lang), "note")]
    if lines:
        parts += _kind("next_lines", lines, SHOWN - gap_count, lang)
    if gaps:
        parts += _kind("gaps", gaps, gap_count, lang, taught=evaluation.taught)
    return section("completions", title, parts)


def sample(found: Sequence[Completion], count: int) -> list[Completion]:
    """``count`` of ``found`` by a digest of their places, so whatever was written; by place."""
    drawn = sorted(found, key=_digest)[:count]
    return sorted(drawn, key=lambda one: (one.path, one.line))


def _digest(one: Completion) -> bytes:
    return hashlib.sha256(f"{one.path}\n{one.line}\n{one.gap}".encode()).digest()


def _kind(
    name: str, found: Sequence[Completion], count: int, lang: Lang, *, taught: bool = False
) -> Iterator[str]:
    shown = sample(found, count)
    yield f"<h3>{text(say(name, lang))}</h3>"
    yield paragraph(
        say(
            "shown_of", lang, shown=len(shown), count=len(found),
            base=_right_of(shown, "base"), tuned=_right_of(shown, "tuned"),
            all_base=_right_of(found, "base"), all_tuned=_right_of(found, "tuned"),
        ),
        "note",
    )  # fmt: skip
    if taught:
        yield paragraph(say("taught", lang), "note")
    for one in shown:
        yield _completion(one, lang, taught=taught)


def _right_of(found: Sequence[Completion], model: str) -> int:
    return sum(_is_right(one, one.base if model == "base" else one.tuned) for one in found)


def _is_right(one: Completion, written: str) -> bool:
    return written.strip() == one.truth.strip()


def _completion(one: Completion, lang: Lang, *, taught: bool) -> str:
    above, below = _around(one)
    kind = "" if one.gap == "next_line" else f" <small>{text(say(one.gap, lang))}</small>"
    after = f'<pre tabindex="0"><code>{text(below)}</code></pre>' if below.strip() else ""
    return (
        f'<article class="completion"><h4>{text(one.path)}:{one.line}{kind}</h4>'
        f'<pre tabindex="0"><code>{text(above)}{_CURSOR}</code></pre>'
        f"{_line('truth', text(_unindented(one, one.truth)), '', lang)}"
        f"{_written(one, 'base', one.base, one.base_ended or taught, lang)}"
        f"{_written(one, 'tuned', one.tuned, one.tuned_ended, lang)}"
        f"{after}</article>"
    )


def _around(one: Completion) -> tuple[str, str]:
    """The code before and after, both as far to the left as their leftmost line allows."""
    above = "\n".join(one.prompt_tail.split("\n")[-LINES_ABOVE - 1 :]).lstrip("\n").split("\n")
    below = one.suffix_head.strip("\n").split("\n")
    code = [line for line in (*above, *below) if line.strip()]
    margin = min((len(line) - len(line.lstrip()) for line in code), default=0)
    left, right = ("\n".join(line[margin:] for line in lines) for lines in (above, below))
    return left, right


def _written(one: Completion, name: str, written: str, ended: bool, lang: Lang) -> str:
    """A model's row; ``ended``: whether it stopped by itself, where that was asked."""
    mark = ""
    if _is_right(one, written):
        mark = f' <b class="right">✓ {text(say("right", lang))}</b>'
    elif one.gap != "next_line" and not ended:
        mark = f" <span>({text(say('went_on', lang))})</span>"
    return _line(name, _marked(one, written, lang), mark, lang)


def _line(name: str, shown: str, mark: str, lang: Lang) -> str:
    return (
        f'<div class="line {name}"><span class="who">{text(say(name, lang))}{mark}</span>'
        f"<code>{shown}</code></div>"
    )


def _marked(one: Completion, written: str, lang: Lang) -> str:
    if not written.strip():
        return f"<i>{text(say('nothing_written', lang))}</i>"
    tags = {"written": "ins", "missing": "del"}
    return "".join(
        text(part) if kind == "same" else f"<{tags[kind]}>{text(part)}</{tags[kind]}>"
        for kind, part in difference(_unindented(one, one.truth), _unindented(one, written))
    )


def _unindented(one: Completion, code: str) -> str:
    """All lines without the white space that the truth begins with; what is compared is stripped,
    as where an exact match is asked for."""
    fresh = one.prompt_tail.endswith("\n")
    indent = one.truth[: len(one.truth) - len(one.truth.lstrip())] if fresh else ""
    return code.strip().replace(f"\n{indent}", "\n")
