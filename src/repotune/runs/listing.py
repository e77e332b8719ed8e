"""The runs there are in a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from repotune.errors import RunError
from repotune.runs.folder import RunFolder
from repotune.runs.lock import is_locked
from repotune.runs.run_json import RunState, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """One line of the list of runs."""

    name: str
    path: str
    status: Status | Literal["stopped", "damaged"]
    """``stopped``: run.json says running, but its process is gone."""
    state: RunState | None
    """None if damaged."""
    kept_steps: tuple[int, ...]
    """Of its checkpoints: what ``--step`` can name."""


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


def unfinished_like(
    folder: Path, tree: Path, config: Mapping[str, Any], *, apart: Collection[str] = ("output_dir",)
) -> RunInfo | None:
    """The newest run in ``folder`` of the same tree and settings that has saved something and is
    neither finished nor in work; None if there is none. ``apart``: settings that may differ."""
    if not folder.is_dir():
        return None
    wanted = {name: value for name, value in config.items() if name not in apart}
    for info in reversed(list_runs(folder)):
        if info.state is None or info.status not in ("interrupted", "stopped", "failed"):
            continue
        theirs = {name: value for name, value in info.state.config.items() if name not in apart}
        saved = any(RunFolder(Path(info.path)).checkpoints.glob("step-*"))
        if saved and info.state.tree == str(tree.resolve()) and theirs == wanted:
            return info
    return None


def _info(run: RunFolder) -> RunInfo:
    name, path, steps = run.path.name, str(run.path), run.kept_steps()
    try:
        state = run.state()
    except RunError:
        return RunInfo(name=name, path=path, status="damaged", state=None, kept_steps=steps)
    stopped = state.status == "running" and not is_locked(run.lock_file)
    return RunInfo(
        name=name, path=path, status="stopped" if stopped else state.status, state=state,
        kept_steps=steps,
    )  # fmt: skip
