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


def sync_file(path: Path) -> None:
    """Wait until the disk has a file that is written; a rename that follows must not be faster."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut; Windows does that by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, *, note: str = "", then: str = "go on with --resume") -> Iterator[None]:
    """Turn what the operating system refuses into DiskFull or RunError that names ``path``.

    ``note`` says what is safe all the same, ``then`` what to do once the cause is mended.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk is full, so {path} cannot be written{note}: free some space and {then}."
            ) from None
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}){note}: mend the disk or the "
            f"folder's permissions and {then}."
        ) from None
