"""Money, sessions and weeks."""

import pytest

from repotune.planning.cost import board_watts, electricity_kwh, money, offer_cost, sessions, weeks
from repotune.records import CloudOffer, Range


def offer(**changes):
    return CloudOffer(
        **{
            "provider": "P", "name": "N", "gpu": "T4", "gpu_count": 1, "host_ram_gb": 16.0,
            "price": 0.5, "per": "hour", "currency": "USD", "included_hours": None,
            "session_limit_hours": None, "weekly_limit_hours": None, "region": None,
            "page_price": None, "note": None, "source": "", "date": "", **changes,
        }
    )  # fmt: skip


HOURS = Range(low=10, expected=20, high=40)


def test_by_the_hour():
    cost = offer_cost(offer(), "starter", "fits", HOURS)
    assert cost.model == "starter"
    assert (cost.money.low, cost.money.expected, cost.money.high) == (5, 10, 20)
    assert (cost.sessions, cost.weeks) == (1, 1)


@pytest.mark.parametrize(("hours", "months"), [(1, 1), (18.6, 1), (18.7, 2), (40, 3)])
def test_by_the_month_whole_purchases_are_made(hours, months):
    assert money(offer(price=9.99, per="month", included_hours=18.6), hours) == 9.99 * months
    assert money(offer(price=8.0, per="month"), hours) == 8.0


@pytest.mark.parametrize(("hours", "count"), [(0.1, 1), (11.7, 1), (11.8, 2), (30, 3)])
def test_a_session_loses_a_quarter_of_an_hour(hours, count):
    assert sessions(offer(session_limit_hours=12.0), hours) == count
    assert sessions(offer(), hours) == 1


def test_kaggles_thirty_hours_a_week():
    kaggle = offer(price=0.0, per="month", session_limit_hours=12.0, weekly_limit_hours=30.0)
    assert [weeks(kaggle, hours) for hours in (1, 29, 30, 65)] == [1, 1, 2, 3]
    assert money(kaggle, 65) == 0


def test_electricity_is_power_times_hours():
    kwh = electricity_kwh(board_watts(200), Range(low=10, expected=10, high=10))
    assert (kwh.low, kwh.expected, kwh.high) == pytest.approx((1.4, 1.7, 2.0))
