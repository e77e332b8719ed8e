"""One process works on a run: a lock that dies with its process, however it died.

The only file that imports ``filelock``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from repotune.errors import RunError

_LOCK_WAIT_SECONDS: Final = 1.0
"""``is_locked`` holds a lock for an instant to see whether it is free; waiting rides that out."""


@contextmanager
def lock(file: Path, *, holder: Callable[[], str]) -> Iterator[None]:
    """Hold ``file`` locked. Raises RunError, naming ``holder``, if another process does."""
    held = FileLock(file, timeout=_LOCK_WAIT_SECONDS)
    try:
        held.acquire()
    except Timeout:
        raise RunError(
            f"{file.parent} is in use by {holder()}: wait until that is done, or stop it."
        ) from None
    except OSError as error:
        raise RunError(
            f"{file.parent} cannot be locked ({error.strerror}): make the folder writable, or "
            "work on a copy of it."
        ) from None
    try:
        yield
    finally:
        held.release()


def is_locked(file: Path) -> bool:
    """Whether a process holds ``file`` locked."""
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's run, which we may read only
        return False
