"""What a job costs: electricity at home, money and sessions on a cloud offer."""

from __future__ import annotations

from math import ceil
from typing import Final

from repotune.records import CloudOffer, OfferCost, Range, Verdict

UTILISATION: Final = Range(low=0.7, expected=0.85, high=1.0)
"""Share of the board's power that training draws; an H100 drew 697 of 700 W under matmuls."""
CPU_WATTS: Final = Range(low=35, expected=80, high=200)
"""Of a processor under load: laptop, desktop, workstation."""
SESSION_LOSS_HOURS: Final = 0.25
"""Of each session: install, download, load, and the steps since the last checkpoint."""


def electricity_kwh(power_w: Range, hours: Range) -> Range:
    """Of the device alone, kWh: watts × hours / 1000."""
    return times(power_w, hours, 1e-3)


def board_watts(power_w: int) -> Range:
    """Of a GPU's board while it trains."""
    return scaled(UTILISATION, power_w)


def offer_cost(offer: CloudOffer, model: str, verdict: Verdict, hours: Range) -> OfferCost:
    """Money, sessions and weeks of ``hours`` of work on ``model`` on ``offer``."""
    return OfferCost(
        offer=offer,
        model=model,
        verdict=verdict,
        hours=hours,
        money=Range(
            low=money(offer, hours.low),
            expected=money(offer, hours.expected),
            high=money(offer, hours.high),
        ),
        sessions=sessions(offer, hours.expected),
        weeks=weeks(offer, hours.expected),
    )


def money(offer: CloudOffer, hours: float) -> float:
    """By the hour, or by whole purchases of the hours that a month's price pays for."""
    if offer.per == "hour":
        return offer.price * hours
    if offer.included_hours is None:
        return offer.price
    return offer.price * ceil(hours / offer.included_hours)


def sessions(offer: CloudOffer, hours: float) -> int:
    """Sessions that ``hours`` of work take, each losing a quarter of an hour; at least 1."""
    if offer.session_limit_hours is None:
        return 1
    return max(1, ceil(hours / (offer.session_limit_hours - SESSION_LOSS_HOURS)))


def weeks(offer: CloudOffer, hours: float) -> int:
    """Calendar weeks that the weekly limit makes of it; at least 1."""
    if offer.weekly_limit_hours is None:
        return 1
    taken = hours + sessions(offer, hours) * SESSION_LOSS_HOURS
    return max(1, ceil(taken / offer.weekly_limit_hours))


def scaled(one: Range, factor: float) -> Range:
    """Each end times ``factor``."""
    return Range(low=one.low * factor, expected=one.expected * factor, high=one.high * factor)


def times(one: Range, other: Range, factor: float = 1.0) -> Range:
    """End by end."""
    return Range(
        low=one.low * other.low * factor,
        expected=one.expected * other.expected * factor,
        high=one.high * other.high * factor,
    )
