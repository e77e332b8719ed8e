"""Whether one of two models solves more of the same tasks than chance would have it."""

from __future__ import annotations

from math import comb


def mcnemar_p_value(lost: int, won: int) -> float:
    """The two-sided p-value of McNemar's exact test.

    ``lost`` and ``won`` count the tasks that only the one or only the other solved. If neither were
    better, each would be a fair coin's (McNemar 1947, in its binomial form); tasks that both or
    neither solved say nothing. 1 where there is nothing to tell them apart.
    """
    pairs = lost + won
    tail = sum(comb(pairs, count) for count in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / (1 << pairs))
