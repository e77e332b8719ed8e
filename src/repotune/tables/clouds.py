"""The table of cloud offers."""

from __future__ import annotations

from functools import cache
from typing import Final

from repotune.records import CloudOffer
from repotune.tables.toml_file import read_table

PRICES_CHANGE: Final = (
    "Prices and limits change and differ by region: each is as its source said on its date."
)


@cache
def clouds() -> tuple[CloudOffer, ...]:
    """All known offers, by provider."""
    return tuple(
        CloudOffer(
            provider=offer["provider"],
            name=offer["name"],
            gpu=offer["gpu"],
            gpu_count=offer.get("gpu_count", 1),
            host_ram_gb=offer.get("host_ram_gb"),
            price=offer["price"],
            per=offer["per"],
            currency=offer.get("currency", "USD"),
            included_hours=offer.get("included_hours"),
            session_limit_hours=offer.get("session_limit_hours"),
            weekly_limit_hours=offer.get("weekly_limit_hours"),
            region=offer.get("region"),
            page_price=offer.get("page_price"),
            note=offer.get("note"),
            source=offer["source"],
            date=offer["date"],
        )
        for offer in read_table("clouds.toml")["offer"]
    )
