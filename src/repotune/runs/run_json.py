"""``run.json``: what a run is and how far it came, always whole, and its own digest in it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from repotune.durable import partial_of, sync_folder, write_durably, writing
from repotune.errors import RunError

Status: TypeAlias = Literal["running", "interrupted", "finished", "failed"]

ELSEWHERE: Final = "try again, or choose another folder with -o"

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What ``run.json`` says."""

    status: Status
    created: str
    """ISO 8601, UTC."""
    updated: str
    tree: str
    """Absolute path of the source tree."""
    model: str
    """The model that was asked for: ``starter``, a folder, or a hub id."""
    config: dict[str, Any]
    """All fields of FineTuningConfig."""
    versions: dict[str, str]
    process: dict[str, Any]
    """``pid`` and ``host`` of the process that worked on the run last."""
    facts: dict[str, Any]
    """What the work recorded: steps, tokens, bits per byte, the base model's digest."""


def write_json_atomic(path: Path, value: Any) -> None:
    """Write ``value`` as JSON so that ``path`` holds the old text or the new one, never a part.

    Raises DiskFull if the disk is full, RunError if the file cannot be written.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    partial = partial_of(path)
    with writing(path, then=ELSEWHERE):
        try:
            write_durably(partial, text.encode())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """Of a file of the run. Raises RunError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    return digest.hexdigest()


def write_state(path: Path, state: RunState) -> None:
    """Write ``state`` atomically. Raises RunError or DiskFull."""
    content = {"format": _FORMAT, **asdict(state)}
    write_json_atomic(path, {**content, "sha256": _digest(content)})


def read_state(path: Path) -> RunState:
    """What the file says. Raises RunError if it is missing, damaged or was edited."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise RunError(f"{path} is damaged ({error}): start a new run.") from None
    if not isinstance(content, dict) or "format" not in content:
        raise RunError(f"{path} is not the run.json of a run: start a new run.")
    if content["format"] != _FORMAT:
        raise RunError(
            f"{path} has format {content['format']}, and this version of repotune reads "
            f"format {_FORMAT}: use the version that made the run."
        )
    if content.pop("sha256", None) != _digest(content):
        raise RunError(
            f"{path} was edited or damaged, because it does not fit its own sha256: "
            "put the original back, or start a new run."
        )
    del content["format"]
    return RunState(**content)


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def versions() -> dict[str, str]:
    """Of what decides how a run goes."""
    return {
        "repotune": metadata.version("repotune"),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def this_process() -> dict[str, Any]:
    """Its ``pid`` and its ``host``."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def now_utc() -> str:
    """ISO 8601, UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
