"""The whole report as one HTML file: styles and drawings inside, no script, no network."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from repotune.report.completions import completions
from repotune.report.contents import Contents, Lang
from repotune.report.course import curves, events, memory, plan
from repotune.report.origin import corpus, reproduce
from repotune.report.proof import figures, verdict
from repotune.report.tags import text
from repotune.report.texts import say

MARK: Final = '<meta name="generator" content="repotune report">'
"""Near the beginning of every report."""


def to_html(run: Contents, lang: Lang) -> str:
    """The page; it ends in a line end."""
    style = files("repotune.report").joinpath("page.css").read_text(encoding="utf-8")
    title = say("title", lang, name=run.name)
    made = say("made_by", lang, version=run.state.versions.get("repotune", "?"), path=run.path)
    body = (
        verdict(run, lang),
        figures(run, lang),
        curves(run, lang),
        memory(run, lang),
        plan(run, lang),
        events(run, lang),
        corpus(run, lang),
        completions(run, lang),
        reproduce(run, lang),
    )
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="{lang}">',
            "<head>",
            '<meta charset="utf-8">',
            MARK,
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{text(title)}</h1>",
            f'<dl class="about">{"".join(_about(run, lang))}</dl>',
            *(part for part in body if part),
            f"<footer>{text(made)}</footer>",
            "</main>",
            "</body>",
            "</html>",
            "",
        )
    )


def _about(run: Contents, lang: Lang) -> Iterator[str]:
    state, metrics = run.state, run.metrics
    status = say(f"status_{run.status}", lang)
    if run.status != "finished" and metrics.steps_planned:
        done = say("progress", lang, done=metrics.steps, planned=metrics.steps_planned)
        status = f"{status} ({done})"
    rows = (
        ("status", status),
        ("model", state.facts.get("model") or state.model or "–"),
        ("tree", state.tree),
        ("begun", state.created[:16].replace("T", " ")),
    )
    for name, value in rows:
        yield f"<div><dt>{text(say(name, lang))}</dt><dd>{text(value)}</dd></div>"
