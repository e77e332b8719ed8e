"""A run's folder: the paths of its files, and how it is made, opened and found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from repotune.durable import partial_of, sync_folder, writing
from repotune.errors import RunError
from repotune.runs.lock import lock
from repotune.runs.run_json import (
    ELSEWHERE,
    RunState,
    Status,
    now_utc,
    read_state,
    sha256_of,
    this_process,
    versions,
    write_state,
)

RUNS_FOLDER: Final = "repotune-runs"
"""Runs without an output folder lie in this folder of the current directory."""


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
        return read_state(self.run_json)

    def config_text(self) -> str:
        """What ``config.toml`` says; empty if it cannot be read."""
        try:
            return self.config_toml.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def configure(self, config: Mapping[str, Any], config_toml: str) -> None:
        """Write another configuration, for programs and for people.

        Raises RunError or DiskFull if it cannot be written.
        """
        write_state(self.run_json, replace(self.state(), config=dict(config), updated=now_utc()))
        with writing(self.config_toml, then=ELSEWHERE):
            self.config_toml.write_text(config_toml, encoding="utf-8", newline="\n")

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
            updated=now_utc(),
        )
        write_state(self.run_json, new)
        return new

    def record_digests(self, *folders: Path) -> None:
        """Note the SHA-256 of every file in ``folders`` of the run, which are complete.

        Raises RunError or DiskFull.
        """
        known = self.digests()
        for folder in folders:
            known = {n: d for n, d in known.items() if not n.startswith(f"{folder.name}/")}
            for path in sorted(folder.iterdir()):
                known[f"{folder.name}/{path.name}"] = sha256_of(path)
        self.update(facts={"digests": known})

    def check_digests(self, *folders: Path) -> None:
        """Raise RunError if a file in ``folders`` is not what it was when they were complete.

        Digests of a folder that were not noted, since the process was killed, are noted now.
        """
        known = self.digests()
        for folder in folders:
            if any(name.startswith(f"{folder.name}/") for name in known):
                again = f"move {folder} away, and --resume makes it again"
                self.refuse_damaged(folder, otherwise=again)
            else:
                self.record_digests(folder)

    def refuse_damaged(self, folder: Path, otherwise: str) -> None:
        """Raise RunError if a file in ``folder`` is known to be other than it was; writes nothing.

        A folder whose digests were not noted is taken as it is. ``otherwise`` is what can be done
        without the original.
        """
        for name, digest in self.digests().items():
            path = self.path / name
            if not name.startswith(f"{folder.name}/"):
                continue
            if not path.exists():
                wrong = "is missing"
            elif sha256_of(path) != digest:
                wrong = "was edited or damaged, because it does not fit its SHA-256 in run.json"
            else:
                continue
            raise RunError(f"{path} {wrong}: put the original back, or {otherwise}.")

    def is_whole(self, folder: Path) -> bool:
        """Whether ``folder`` is there, and nothing in it is known to be other than it was."""
        try:
            self.refuse_damaged(folder, otherwise="")
        except RunError:
            return False
        return folder.is_dir()

    def digests(self) -> dict[str, str]:
        """SHA-256 by ``folder/file``, of all that was complete once."""
        return dict(self.state().facts.get("digests", {}))

    def kept_steps(self) -> tuple[int, ...]:
        """The steps whose checkpoints lie in the run, ascending; whether they are whole is not
        looked at."""
        names = [path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*")]
        return tuple(sorted(int(name) for name in names if name.isdigit()))

    def refuse_no_adapter(self, step: int | None, otherwise: str = "") -> None:
        """Raise RunError if there is neither an adapter nor, where ``step`` is given, the
        checkpoint of that step; ``otherwise`` is what else can be done."""
        steps = self.kept_steps()
        of_steps = "that of step" if len(steps) == 1 else "those of steps"
        kept = f"{of_steps} {', '.join(map(str, steps))}"
        has_adapter = self.adapter.exists()
        if step is not None and step not in steps and (steps or has_adapter):
            others = f"but {kept}" if steps else "nor of another: leave --step out"
            raise RunError(f"{self.path} keeps no checkpoint of step {step}, {others}.")
        if not has_adapter and step not in steps:
            or_step = f", or take a checkpoint ({kept}) with --step" if steps else ""
            raise RunError(
                f"{self.path} has no adapter yet: finish it with `repotune tune --resume "
                f"{self.path}`{or_step}{otherwise}."
            )

    def discard(self, *, also_the_folder: bool) -> None:
        """Remove a run in which nothing was made yet, and its folder if that holds nothing else."""
        for path in (self.run_json, self.config_toml, self.lock_file, partial_of(self.run_json)):
            path.unlink(missing_ok=True)
        if also_the_folder:
            with suppress(OSError):
                self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Work on the run as the only process.

        Raises RunError, naming the other process, if there is one.
        """
        with lock(self.lock_file, holder=self._holder):
            write_state(self.run_json, replace(self.state(), process=this_process()))
            yield

    @contextmanager
    def held_still(self) -> Iterator[None]:
        """Keep other processes from working on the run while it is looked at; changes nothing.

        Raises RunError, naming the other process, if there is one.
        """
        with lock(self.lock_file, holder=self._holder):
            yield

    def _holder(self) -> str:
        try:
            process = self.state().process
        except RunError:
            return "another process"
        return f"process {process['pid']} on {process['host']}"


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
    now = now_utc()
    state = RunState(
        status="running",
        created=now,
        updated=now,
        tree=str(tree.resolve()),
        model=model,
        config=dict(config),
        versions=versions(),
        process=this_process(),
        facts={},
    )
    run = RunFolder(path.absolute())
    refuse_taken(run.path)
    with writing(run.path, then=ELSEWHERE):
        if run.path.exists():
            # A folder of the user's stays the folder it is (it may be the current directory).
            with run.held_still():
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
        leftovers = {run.lock_file.name, partial_of(run.run_json).name}
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
    write_state(run.run_json, state)
    run.config_toml.write_text(config_toml, encoding="utf-8", newline="\n")
