"""What the requirements page says, figure by figure, so that it can stand beside ours."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from repotune.records import PageClaim
from repotune.tables.toml_file import read_table

OWN_KEYS: Final = ("id", "topic", "low", "high", "unit", "says", "why")


@cache
def page_claims() -> tuple[PageClaim, ...]:
    """All claims, in the order of the page; what an entry says beside its own keys is its
    subject."""
    return tuple(_claim(entry) for entry in read_table("page.toml")["claim"])


def _claim(entry: dict[str, Any]) -> PageClaim:
    return PageClaim(
        id=entry["id"],
        topic=entry["topic"],
        subject={key: value for key, value in entry.items() if key not in OWN_KEYS},
        low=entry.get("low"),
        high=entry.get("high"),
        unit=entry.get("unit", ""),
        says=entry.get("says"),
        why=entry.get("why"),
    )
