"""Writing files that outlast a crash, and a sentence where one cannot be written."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from repotune.errors import DiskFull, RunError
from repotune.events import Emit, Notice

Result = TypeVar("Result")
PAUSE_SECONDS: Final = 5.0
"""Between two looks at a full disk."""


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` and wait until the disk has it."""
    write_parts_durably(path, [data])


def write_parts_durably(path: Path, parts: Iterable[bytes]) -> str:
    """Write ``parts`` one after the other and wait until the disk has them; SHA-256 of them all."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


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


def partial_of(path: Path) -> Path:
    """Where what will be ``path`` is written until it is whole."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole_folder(folder: Path, *, then: str = "go on with --resume") -> Iterator[Path]:
    """A folder to write into, which becomes ``folder`` at the end, by one rename.

    Only an empty folder may be there. Whatever is raised inside removes what was written. Raises
    DiskFull or RunError for what the system refuses, see ``writing``.
    """
    partial = partial_of(folder)
    with writing(folder, then=then):
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        try:
            yield partial
            sync_folder(partial)
            if folder.exists():
                folder.rmdir()  # Windows renames over nothing
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def when_there_is_room(
    write: Callable[[], Result], *, emit: Emit, pause: Callable[[], bool]
) -> Result:
    """``write()``, again after each ``pause`` for as long as it raises DiskFull.

    What is wrong is said once. Raises DiskFull where ``pause`` says that the wait is over.
    """
    told = False
    while True:
        try:
            return write()
        except DiskFull as full:
            if not told:
                emit(Notice(message=f"Paused. {full}"))
                told = True
            if not pause():
                raise


def pause_unless(should_stop: Callable[[], bool]) -> bool:
    """Wait for ``PAUSE_SECONDS``; False at once where ``should_stop`` says yes."""
    nobody = threading.Event()
    for _ in range(10):
        if should_stop():
            return False
        nobody.wait(PAUSE_SECONDS / 10)
    return True
