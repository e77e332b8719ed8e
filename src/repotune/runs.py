"""The run folder: the names of its files, its state, its lock.

    run.json          what the run is and how far it came; written first, always whole
    config.toml       the configuration, for people and for `--config`
    run.lock          held by the process that works on the run, released when that process dies
    corpus/           manifest.parquet, documents.parquet, summary.json
    tokens/           rows of token ids
    metrics.jsonl     one line per step
    tensorboard/      the same for TensorBoard
    checkpoints/      step-000050/, …
    adapter/          PEFT's format
    evaluation.json   base against tuned
    serve/            the models that `repotune serve` made for llama.cpp

``run.json`` alone is enough to start the run again, and it appears by one rename: a process
killed at any moment leaves either no run or one that can be resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from filelock import FileLock, Timeout

from repotune.durable import sync_folder, write_durably, writing
from repotune.errors import RunError

RUNS_FOLDER = "repotune-runs"
"""Runs without an output folder lie in this folder of the current directory."""

Status: TypeAlias = Literal["running", "interrupted", "finished", "failed"]

ELSEWHERE = "try again, or choose another folder with -o"

_FORMAT = 1
_LOCK_WAIT_SECONDS = 1.0
"""``list_runs`` holds a lock for an instant to see whether it is free; waiting rides that out."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """One line of the list of runs."""

    name: str
    path: str
    status: Status | Literal["stopped", "damaged"]
    """``stopped``: run.json says running, but its process is gone."""
    state: RunState | None
    """None if damaged."""


class RunFolder:
    """A run on disk: the paths of its files, its state and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_json = path / "run.json"
        self.config_toml = path / "config.toml"
        self.lock_file = path / "run.lock"
        self.corpus = path / "corpus"
        self.tokens = path / "tokens"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.evaluation = path / "evaluation.json"

    def state(self) -> RunState:
        """What ``run.json`` says now. Raises RunError if it is damaged or was edited."""
        return _read_state(self.run_json)

    def update(
        self, status: Status | None = None, facts: Mapping[str, Any] | None = None
    ) -> RunState:
        """Write a new status and further facts, atomically; what is not given stays.

        Raises RunError or DiskFull if ``run.json`` cannot be read or written.
        """
        old = self.state()
        new = replace(
            old,
            status=status or old.status,
            facts={**old.facts, **(facts or {})},
            updated=_now(),
        )
        _write_state(self.run_json, new)
        return new

    def discard(self, *, also_the_folder: bool) -> None:
        """Remove a run in which nothing was made yet, and its folder if that holds nothing else."""
        for path in (self.run_json, self.config_toml, self.lock_file, _partial(self.run_json)):
            path.unlink(missing_ok=True)
        if also_the_folder:
            with suppress(OSError):
                self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Work on the run as the only process.

        Raises RunError, naming the other process, if there is one.
        """
        with _lock(self):
            _write_state(self.run_json, replace(self.state(), process=_this_process()))
            yield


def default_run_path(tree: Path, cwd: Path, now: datetime) -> Path:
    """``repotune-runs/<tree's name>-<date>-<time>`` under ``cwd``, not in use yet."""
    name = f"{tree.resolve().name or 'root'}-{now:%Y%m%d-%H%M%S}"
    path = cwd / RUNS_FOLDER / name
    count = 1
    while path.exists():
        count += 1
        path = path.with_name(f"{name}-{count}")
    return path


def create_run(
    path: Path, *, tree: Path, model: str, config: Mapping[str, Any], config_toml: str
) -> RunFolder:
    """Make the run folder ``path``, which must not exist or must be empty.

    ``config`` is the complete configuration as JSON values, ``config_toml`` the same for people.
    Raises RunError if the folder is taken or cannot be written, DiskFull if the disk is full.
    """
    now = _now()
    state = RunState(
        status="running",
        created=now,
        updated=now,
        tree=str(tree.resolve()),
        model=model,
        config=dict(config),
        versions=_versions(),
        process=_this_process(),
        facts={},
    )
    run = RunFolder(path.absolute())
    refuse_taken(run.path)
    with writing(run.path, then=ELSEWHERE):
        if run.path.exists():
            # A folder of the user's stays the folder it is (it may be the current directory).
            with _lock(run):
                refuse_taken(run.path)
                _fill(run, state, config_toml)
        else:
            _create_by_rename(run, state, config_toml)
    return run


def refuse_taken(path: Path) -> None:
    """Raise RunError if ``path`` cannot become a new run's folder, because something is there."""
    run = RunFolder(path)
    if run.run_json.exists():
        raise RunError(
            f"{path} already holds a run: go on with it by `repotune tune --resume {path}`, "
            "or choose another folder with -o."
        )
    if path.is_dir():
        # What a process killed inside create_run may leave is no reason to refuse the folder.
        leftovers = {run.lock_file.name, _partial(run.run_json).name}
        count = sum(1 for entry in path.iterdir() if entry.name not in leftovers)
        if count:
            raise RunError(
                f"{path} is not empty ({count} entries) and not a run: "
                "choose a new or an empty folder with -o."
            )
    elif path.exists():
        raise RunError(f"{path} is a file: choose a new or an empty folder with -o.")


def open_run(path: Path) -> RunFolder:
    """The run in folder ``path``. Raises RunError if there is none, or if it is damaged."""
    run = RunFolder(path.absolute())
    if not run.run_json.is_file():
        reason = "it has no run.json" if path.is_dir() else "there is no such folder"
        raise RunError(
            f"{path} is not a run, because {reason}: `repotune runs` lists the runs there are."
        )
    run.state()
    return run


def find_run(name: str | Path, cwd: Path) -> RunFolder:
    """The run at the path ``name``, or of that name in ``repotune-runs``, both seen from ``cwd``.

    Raises RunError if there is none, or if it is damaged.
    """
    named = cwd / RUNS_FOLDER / name
    direct = cwd / name
    is_named = not RunFolder(direct).run_json.exists() and RunFolder(named).run_json.exists()
    return open_run(named if is_named else direct)


def list_runs(folder: Path) -> list[RunInfo]:
    """The runs that lie directly in ``folder``, oldest first.

    A damaged one is listed as such. Raises RunError if ``folder`` is not a readable folder.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise RunError(f"{folder} cannot be listed: {error.strerror}.") from None
    runs = [RunFolder(entry.absolute()) for entry in entries]
    infos = [_info(run) for run in runs if run.run_json.is_file()]
    return sorted(infos, key=lambda info: (info.state.created if info.state else "", info.name))


def write_json_atomic(path: Path, value: Any) -> None:
    """Write ``value`` as JSON so that ``path`` holds the old text or the new one, never a part.

    Raises DiskFull if the disk is full, RunError if the file cannot be written.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    partial = _partial(path)
    with writing(path, then=ELSEWHERE):
        try:
            write_durably(partial, text.encode())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _create_by_rename(run: RunFolder, state: RunState, config_toml: str) -> None:
    run.path.parent.mkdir(parents=True, exist_ok=True)
    staging = RunFolder(run.path.with_name(f".{run.path.name}.{os.getpid()}.partial"))
    try:
        staging.path.mkdir()
        _fill(staging, state, config_toml)
        staging.path.rename(run.path)
    except BaseException:
        shutil.rmtree(staging.path, ignore_errors=True)
        raise
    sync_folder(run.path.parent)


def _fill(run: RunFolder, state: RunState, config_toml: str) -> None:
    _write_state(run.run_json, state)
    run.config_toml.write_text(config_toml, encoding="utf-8", newline="\n")


@contextmanager
def _lock(run: RunFolder) -> Iterator[None]:
    lock = FileLock(run.lock_file, timeout=_LOCK_WAIT_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{run.path} is in use by {_holder(run)}: wait until that is done, or stop it."
        ) from None
    except OSError as error:
        raise RunError(f"{run.path} cannot be locked: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()


def _holder(run: RunFolder) -> str:
    try:
        process = run.state().process
    except RunError:
        return "another process"
    return f"process {process['pid']} on {process['host']}"


def _is_locked(run: RunFolder) -> bool:
    if not run.lock_file.exists():
        return False
    try:
        with FileLock(run.lock_file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's run, which we may read only
        return False


def _info(run: RunFolder) -> RunInfo:
    name, path = run.path.name, str(run.path)
    try:
        state = run.state()
    except RunError:
        return RunInfo(name=name, path=path, status="damaged", state=None)
    stopped = state.status == "running" and not _is_locked(run)
    return RunInfo(name=name, path=path, status="stopped" if stopped else state.status, state=state)


def _write_state(path: Path, state: RunState) -> None:
    content = {"format": _FORMAT, **asdict(state)}
    write_json_atomic(path, {**content, "sha256": _digest(content)})


def _read_state(path: Path) -> RunState:
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


def _versions() -> dict[str, str]:
    return {
        "repotune": metadata.version("repotune"),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
