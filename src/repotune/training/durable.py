"""Writing files that outlast a crash, and a sentence where one cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repotune.errors import DiskFull, RunError


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in ``folder``; Windows cannot, and does it by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into DiskFull or RunError that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk is full, so {path} cannot be written; what was saved before is whole: "
                "free some space and go on with --resume."
            ) from None
        raise RunError(
            f"{path} cannot be written ({error.strerror}); what was saved before is whole: "
            "mend the disk or the folder's permissions and go on with --resume."
        ) from None
