"""Which files lie in a tree, and their bytes: nothing outside of it, nothing that is left out."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repotune.corpus.ignore import IgnoreRules
from repotune.corpus.manifest import FileLine, Reason
from repotune.corpus.vendored import is_vendored
from repotune.errors import CorpusError
from repotune.runs import RUNS_FOLDER

MAX_FILE_BYTES = 1 << 20
"""Larger files are not read. The Stack left out files over 1 MB (arXiv 2211.15533)."""

_MAX_SMALL_FILE_BYTES = 1 << 18
"""Of a ``.gitignore`` or ``run.json``; what stands beyond is not looked at."""

_NOT_ENTERED: dict[str, Reason] = {
    ".git": "version control",
    ".hg": "version control",
    ".svn": "version control",
    ".bzr": "version control",
    ".jj": "version control",
    "CVS": "version control",
    "_darcs": "version control",
    "node_modules": "dependencies",
    "bower_components": "dependencies",
    "__pycache__": "cache",
    RUNS_FOLDER: "run of repotune",
}

if sys.platform == "win32":
    _OPEN_FLAGS = os.O_RDONLY | os.O_BINARY
else:
    # Since it was looked at, a file may have become a link out of the tree, or a pipe.
    _OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Candidate:
    """A regular file worth reading."""

    path: str
    """Relative to the root, with forward slashes."""
    location: str
    """Where the operating system finds it."""
    size_bytes: int
    vendored: bool


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    """Ends in ``/``; empty for the root."""
    location: str
    outer: IgnoreRules
    """The rules of the folders above."""


def walk(
    root: Path, *, exclude: tuple[Path, ...], keep_vendored: bool
) -> list[Candidate | FileLine]:
    """Every file below ``root``, or ``root`` itself if it is a file, ordered by path.

    A folder that is not entered is one line. No link is followed, except ``root`` itself.
    Raises CorpusError if ``root`` does not exist or cannot be listed.
    """
    try:
        root = root.resolve(strict=True)
        if root.is_file():
            return [_look_at_file(_shown(root.name), str(root), root.stat(), keep_vendored)]
        os.scandir(root).close()
    except FileNotFoundError:
        raise CorpusError(f"{root} does not exist: name a folder with source code.") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, in Python < 3.13
        reason = error.strerror if isinstance(error, OSError) else "its links go in a circle"
        raise CorpusError(f"{root} cannot be read ({reason}): name a readable folder.") from None
    excluded = {os.path.normcase(path.resolve()) for path in exclude}
    outer = IgnoreRules().inside("", _read_text(root / ".git" / "info" / "exclude"))
    found: list[Candidate | FileLine] = []
    folders = [_Folder("", str(root), outer)]
    while folders:  # and not a recursion, because a tree may be deeper than Python's stack
        for one in _look_into(folders.pop(), excluded, keep_vendored):
            if isinstance(one, _Folder):
                folders.append(one)
            else:
                found.append(one)
    return sorted(found, key=lambda one: one.path)


def read_bytes(candidate: Candidate) -> bytes | FileLine:
    """The file's content, or the line that says why it cannot be had."""
    path = candidate.path
    try:
        handle = os.open(candidate.location, _OPEN_FLAGS)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                return FileLine(path=path, reason="not a regular file")
            with os.fdopen(handle, "rb", closefd=False) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(handle)
    except OSError as error:
        return _failed(path, error)
    if len(content) > MAX_FILE_BYTES:
        return _too_large(path, max(status.st_size, len(content)))
    return content


def _look_into(
    folder: _Folder, excluded: set[str], keep_vendored: bool
) -> Iterator[Candidate | FileLine | _Folder]:
    try:
        with os.scandir(folder.location) as scan:
            locations = {entry.name: entry.path for entry in scan}
    except OSError as error:
        yield _failed(folder.path, error)
        return
    if folder.path and ("pyvenv.cfg" in locations or "conda-meta" in locations):
        yield FileLine(path=folder.path, reason="virtual environment")
        return
    if folder.path and "run.json" in locations and _is_run(locations["run.json"]):
        yield FileLine(path=folder.path, reason="run of repotune")
        return
    rules = folder.outer
    if ".gitignore" in locations:
        rules = rules.inside(folder.path, _read_text(Path(locations[".gitignore"])))
    for name, location in locations.items():
        if os.path.normcase(location) in excluded:
            yield FileLine(path=_shown(folder.path + name), reason="excluded")
        else:
            yield _look_at(folder.path, name, location, rules, keep_vendored)


def _look_at(
    folder: str, name: str, location: str, rules: IgnoreRules, keep_vendored: bool
) -> Candidate | FileLine | _Folder:
    path = folder + name
    if _shown(path) != path:
        return FileLine(path=_shown(path), reason="name is not UTF-8")
    try:
        status = os.lstat(location)
    except OSError as error:
        return _failed(path, error)
    if _is_link(status):
        return FileLine(path=path, reason="symlink")
    if not stat.S_ISDIR(status.st_mode):
        if rules.ignores(path):
            return FileLine(path=path, reason="ignored by git", size_bytes=status.st_size)
        return _look_at_file(path, location, status, keep_vendored)
    path += "/"
    reason = _NOT_ENTERED.get(name)
    if reason is None and rules.ignores(path):
        reason = "ignored by git"
    return _Folder(path, location, rules) if reason is None else FileLine(path=path, reason=reason)


def _look_at_file(
    path: str, location: str, status: os.stat_result, keep_vendored: bool
) -> Candidate | FileLine:
    size_bytes = status.st_size
    if not stat.S_ISREG(status.st_mode):
        return FileLine(path=path, reason="not a regular file")
    vendored = is_vendored(path)
    if vendored and not keep_vendored:
        return FileLine(path=path, reason="vendored", size_bytes=size_bytes, vendored=True)
    if size_bytes == 0:  # also the endless files of /proc
        return FileLine(path=path, reason="empty")
    if size_bytes > MAX_FILE_BYTES:
        return _too_large(path, size_bytes)
    return Candidate(path, location, size_bytes, vendored)


def _is_link(status: os.stat_result) -> bool:
    if stat.S_ISLNK(status.st_mode):
        return True
    # A junction is Windows' link between folders.
    return sys.platform == "win32" and status.st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT


def _too_large(path: str, size_bytes: int) -> FileLine:
    detail = f"{size_bytes} bytes, the limit is {MAX_FILE_BYTES}"
    return FileLine(path=path, reason="too large", detail=detail, size_bytes=size_bytes)


def _failed(path: str, error: OSError) -> FileLine:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return FileLine(path=path, reason="vanished")
    return FileLine(path=path, reason="unreadable", detail=error.strerror or "")


def _read_text(path: Path) -> str:
    """A small file of git's or ours; empty if it is a link or cannot be read."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return ""
        with path.open("rb") as file:
            return file.read(_MAX_SMALL_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _is_run(run_json: str) -> bool:
    return '"repotune"' in _read_text(Path(run_json))


def _shown(path: str) -> str:
    """``path`` with the bytes that are not UTF-8 as ``\\udc80`` and the like."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
