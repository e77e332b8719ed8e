"""Is there a place for an export: nothing in the way, and room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from repotune.errors import DiskFull, UsageError


def refuse_taken(folder: Path) -> None:
    """Raises UsageError if something is at ``folder`` that an export would have to replace."""
    if folder.is_dir():
        count = sum(1 for _ in folder.iterdir())
        if count:
            raise UsageError(
                f"{folder} is not empty ({count} entries): choose a new or an empty folder with -o."
            )
    elif folder.exists():
        raise UsageError(f"{folder} is a file: choose a new or an empty folder with -o.")


def refuse_no_room(
    folder: Path, needed: int, then: str = "choose a folder on another disk with -o"
) -> None:
    """Raises DiskFull if ``needed`` bytes are more than is free where ``folder`` will lie.

    ``then`` is what to do instead of freeing some.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskFull(
            f"The export takes {needed / 1e9:,.2f} GB of disk and {free / 1e9:,.2f} GB is free at "
            f"{place}: free some space, or {then}."
        )
