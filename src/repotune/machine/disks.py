"""The lines of ``doctor`` about disks: what goes where, and whether there is room for all of it.

Folders on one drive share its room, so the first of them answers for what all of them need.
"""

from __future__ import annotations

from typing import Final

from repotune.machine import fixes
from repotune.machine.facts import DiskFacts, JobNeeds, MachineFacts, Purpose
from repotune.machine.texts import Lang, say
from repotune.records import Check, Finding

GB: Final = 10**9
ROOM: Final = 2.0
"""Less than this many times the space that is needed is tight."""
NO_PAGE: Final = ("", "", "")
PAGE: Final = ("50 GB", "100 GB", "200 GB, NVMe")


def judge_disks(facts: MachineFacts, needs: JobNeeds, lang: Lang) -> tuple[Check, ...]:
    """A finding for each folder, in the order of the facts."""
    by_purpose = disk_bytes(needs)
    # A job without 4-bit weights has nothing to say of their folder.
    disks = [one for one in facts.disks if one.purpose != "cache" or by_purpose["cache"]]
    checks, seen = [], set[int]()
    for disk in disks:
        same = [one for one in disks if one.drive == disk.drive]
        if disk.drive in seen:
            checks.append(_on_the_same(disk, same[0], by_purpose[disk.purpose], lang))
        else:
            parts = {one.purpose: by_purpose[one.purpose] for one in same}
            checks.append(_first(facts, disk, parts, lang))
        seen.add(disk.drive)
    return tuple(checks)


def disk_bytes(needs: JobNeeds) -> dict[Purpose, int]:
    """What the main job writes into each folder."""
    return {
        "models": needs.model_disk_bytes,
        "cache": needs.cache_disk_bytes,
        "runs": needs.run_disk_bytes,
    }


def _first(facts: MachineFacts, disk: DiskFacts, parts: dict[Purpose, int], lang: Lang) -> Check:
    need = sum(parts.values())
    finding: Finding = "ok"
    reason = ""
    if disk.free_bytes < need:
        items = ", ".join(
            f"{say(lang, f'goes_{purpose}')} {size / GB:.1f}"
            for purpose, size in parts.items()
            if size
        )
        finding = "missing"
        reason = say(lang, "disk_short", needed=f"{need / GB:.1f}", items=items)
    elif disk.free_bytes < ROOM * need:
        finding, reason = "tight", say(lang, "disk_tight", needed=f"{need / GB:.1f}")
    elif disk.kind == "spinning" and disk.purpose == "models":
        finding, reason = "note", say(lang, "disk_slow")
    return Check(
        key=f"disk_{disk.purpose}", label=say(lang, f"disk_{disk.purpose}"),
        value=say(
            lang, "free_at",
            free=f"{disk.free_bytes / GB:.0f}", kind=say(lang, disk.kind), path=disk.path,
        ),
        needed=_amount(parts[disk.purpose]), page=PAGE, finding=finding, reason=reason,
        fix=fixes.show_disk_use(facts.system, disk.path) if finding == "missing" else None,
    )  # fmt: skip


def _on_the_same(disk: DiskFacts, first: DiskFacts, need: int, lang: Lang) -> Check:
    where = say(lang, f"disk_{first.purpose}")
    return Check(
        key=f"disk_{disk.purpose}", label=say(lang, f"disk_{disk.purpose}"),
        value=say(lang, "same_drive", path=disk.path, first=where),
        needed=_amount(need), page=NO_PAGE, finding="ok", reason="", fix=None,
    )  # fmt: skip


def _amount(need: int) -> str:
    return f"{need / GB:.1f} GB" if need else ""
