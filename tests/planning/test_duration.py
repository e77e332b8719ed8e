"""Times as people say them."""

import pytest

from repotune.planning import duration, span
from repotune.records import Range


@pytest.mark.parametrize(
    ("hours", "whole", "short"),
    [
        ((0.04, 0.05, 0.06), "3.0 minutes (2.4 to 3.6)", "2.4 to 3.6 minutes"),
        ((0.5, 0.75, 1.2), "45 minutes (30 to 72)", "30 to 72 minutes"),
        ((2, 4.5, 9), "4.5 hours (2.0 to 9.0)", "2.0 to 9.0 hours"),
        ((36, 48, 96), "2.0 days (1.5 to 4.0)", "1.5 to 4.0 days"),
        ((1200, 2640, 5000), "110 days (50.0 to 208)", "50.0 to 208 days"),
    ],
)
def test_in_the_unit_that_suits_the_expected_value(hours, whole, short):
    low, expected, high = hours
    one = Range(low=low, expected=expected, high=high)
    assert (duration(one), span(one)) == (whole, short)
