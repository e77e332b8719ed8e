"""The drawing is well-formed, in the page's colours, the same each time, and of the right data."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from repotune.report.curves import MAX_POINTS, Curve, draw, number, thinned

POINTS = tuple((step, math.sin(step)) for step in range(1, 30))


def parsed(svg):
    return ET.fromstring(
        svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    )


def test_the_drawing_takes_its_colours_from_the_page():
    lines = [Curve(points=POINTS), Curve(points=((10, 0.5),), colour="second", marked=True)]
    svg = draw(lines, salt="a", band=(0.1, 0.2, 0.3))
    parsed(svg)
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
        "none", "var(--soft)", "var(--line)", "var(--band)", "var(--first)", "var(--second)",
    }  # fmt: skip
    assert "var(--second)" in svg
    assert "<style" not in svg
    assert draw(lines, salt="a", band=(0.1, 0.2, 0.3)) == svg


def test_charts_of_one_page_share_no_id():
    one, other = (
        set(re.findall(r' id="([^"]+)"', draw([Curve(points=POINTS)], salt=salt)))
        for salt in ("a", "b")
    )
    assert one
    assert not one & other


def test_a_line_goes_through_its_points():
    svg = draw([Curve(points=((0, 0.0), (1, 1.0), (2, 0.5)))], salt="a")
    (path,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--first\)', svg)
    places = [tuple(map(float, one.split())) for one in re.findall(r"[ML] ([\d. ]+)", path)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, rel=1e-3)
    assert y0 - y2 == pytest.approx((y0 - y1) / 2, rel=1e-3)
    assert y1 < y2 < y0  # downwards


@pytest.mark.parametrize("points", [((1, 2.0),), ((1, 0.0), (2, 0.0)), ((5, 1e-7), (9, 1e9))])
def test_few_equal_and_far_apart_points_can_be_drawn(points):
    parsed(draw([Curve(points=points)], salt="a"))


def test_a_long_curve_becomes_means_that_miss_nothing():
    points = tuple((step, float(step)) for step in range(1, 2 * MAX_POINTS))
    found = thinned(points)
    assert len(found) == MAX_POINTS
    assert found[:2] == ((2, 1.5), (4, 3.5))
    assert found[-1] == (2 * MAX_POINTS - 1, 2.0 * MAX_POINTS - 1)
    assert thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]
    assert thinned(points, largest=True)[:2] == ((2, 2.0), (4, 4.0))


def test_numbers_are_short():
    assert [number(value) for value in (32139.6, 999.5, 0.02, 1.5182e-5, 0)] == [
        "32,140", "999.5", "0.02", "1.518e-05", "0",
    ]  # fmt: skip
