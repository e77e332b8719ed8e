"""Curves as SVG, drawn by matplotlib: the only file that knows it.

The SVG stands inside the page, so its colours are the page's own variables, which change with
light, dark and print. It holds no words, only numbers: words belong to the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import fmean
from typing import Final, Literal, TypeAlias

from repotune.report.metrics import Points

Colour: TypeAlias = Literal["first", "second"]

MAX_POINTS: Final = 400
"""A longer curve is drawn as means, or the largest, of equal numbers of steps."""
INCHES: Final = (4.9, 2.5)
_SOFT, _LINE, _BAND = "#010203", "#010204", "#010207"
_COLOURS: Final[dict[Colour, str]] = {"first": "#010205", "second": "#010206"}
_VARIABLES: Final = {
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _BAND: "var(--band)",
    _COLOURS["first"]: "var(--first)",
    _COLOURS["second"]: "var(--second)",
}
"""Colours that nobody would choose -> what stands for them in the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a chart."""

    points: Points
    colour: Colour = "first"
    marked: bool = False
    """Whether each point is a dot: for few."""
    largest: bool = False
    """Whether a long curve is drawn as the largest of each few steps, not their mean."""


def number(value: float) -> str:
    """``32,140``, ``6.309``, ``1.52e-05``: as short as it can be understood."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(
    curves: Sequence[Curve], *, salt: str, band: tuple[float, float, float] | None = None
) -> str:
    """An ``<svg>`` of ``curves`` over steps; ``band`` is (low, expected, high) of a prediction.

    ``salt`` tells the ids of one chart in a page from those of another. The same curves give the
    same text.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "font.size": 8.5,
            "font.sans-serif": ["DejaVu Sans"],
        }
    ):
        figure = Figure(figsize=INCHES, layout="tight")
        axes = figure.add_subplot()
        if band is not None:
            low, expected, high = band
            axes.axhspan(low, high, facecolor=_BAND, edgecolor="none")
            axes.axhline(expected, color=_SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        for curve in curves:
            steps, values = zip(*thinned(curve.points, largest=curve.largest), strict=True)
            marker = "o" if curve.marked or len(steps) == 1 else ""
            axes.plot(
                steps, values, color=_COLOURS[curve.colour], linewidth=1.4, marker=marker,
                markersize=3.5,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.tick_params(colors=_SOFT, length=0)
        axes.grid(color=_LINE, linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        written = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return _for_the_page(written.getvalue())


def thinned(points: Points, *, largest: bool = False) -> Points:
    """``points``, or the means of as many in a row as leave at most ``MAX_POINTS``."""
    size = means_of(points)
    if size <= 1:
        return points
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    merged = max if largest else fmean
    return tuple((part[-1][0], merged(value for _, value in part)) for part in parts)


def means_of(points: Points) -> int:
    """How many steps one drawn point stands for."""
    return -(-len(points) // MAX_POINTS)


def _for_the_page(document: str) -> str:
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    used = set(re.findall(r"#([\w.-]+)[\")]", svg))
    svg = re.sub(
        r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg
    )  # those of several charts would be the same
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    head = f'<svg viewBox="{size[0][9:-1]}" aria-hidden="true" focusable="false">'
    return head + svg[svg.index(">") + 1 :].strip()
