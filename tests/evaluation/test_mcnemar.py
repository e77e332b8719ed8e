"""McNemar's exact test against SciPy's binomial test, and against a value from a book."""

import pytest
from scipy.stats import binomtest

from repotune.evaluation.mcnemar import mcnemar_p_value


@pytest.mark.parametrize(
    ("lost", "won"),
    [(1, 0), (0, 1), (5, 5), (6, 0), (5, 0), (12, 3), (3, 12), (80, 41), (600, 433)],
)
def test_it_is_the_binomial_test_of_a_fair_coin(lost, won):
    expected = binomtest(min(lost, won), lost + won, 0.5).pvalue
    assert mcnemar_p_value(lost, won) == pytest.approx(expected, rel=1e-9)


def test_nothing_to_tell_apart_is_no_evidence():
    assert mcnemar_p_value(0, 0) == 1.0


def test_six_lost_and_none_won_are_the_fewest_that_are_sure():
    assert mcnemar_p_value(5, 0) == 2 / 2**5 > 0.05
    assert mcnemar_p_value(6, 0) == 2 / 2**6 < 0.05
