"""How the loop saves: beside the training, the first one proven, the best and the last two kept.

A save takes a copy of the state, and a thread writes that while the training goes on: of the
checkpoint of a 7B model the copy takes a tenth of a second, the disk some seconds. The memory of
the copy is taken before the first step, and kept.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from repotune.durable import when_there_is_room
from repotune.errors import CheckpointError, DiskFull, RepotuneError, TrainingError
from repotune.events import CheckpointSaved, Emit, Notice
from repotune.training.checkpoint import Checkpoint, checkpoint_path, load, prepare, prune, save

KEPT_CHECKPOINTS: Final = 2
"""The newest, so that damage to one loses ``save_steps`` steps; the best is kept beside them."""
GIVE_UP_SECONDS: Final = 5.0
"""A training that breaks off waits so long for a save that is being written."""


class Saver:
    """Saves checkpoints into ``folder``, where the run has ``saves`` still to come at most.

    Raises DiskFull unless they fit, RunError if the folder cannot be made.
    """

    def __init__(
        self, folder: Path, reached: Checkpoint, *, saves: int, keeps_best: bool, emit: Emit,
        pause: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._folder, self._emit, self._pause = folder, emit, pause
        self._kept = deque([reached.step] if reached.step else [], maxlen=KEPT_CHECKPOINTS)
        self._newest = reached.step
        self._proven = False
        self._writing: _Writing | None = None
        # The next one is written before the oldest goes.
        at_once = KEPT_CHECKPOINTS + 1 + keeps_best - len({*self._kept, reached.best.step} - {0})
        prepare(folder, reached.lora, checkpoints=max(0, min(saves, at_once)))
        self._copy = HostCopy(reached) if saves > 0 else None

    @property
    def newest(self) -> str | None:
        """The folder name of the last checkpoint that is complete, None where there is none."""
        return checkpoint_path(self._folder, self._newest).name if self._newest else None

    def has(self, step: int) -> bool:
        """Whether the state after ``step`` steps is on disk, or on its way there."""
        return step in self._kept

    def begin(self, reached: Checkpoint, *, learned: bool) -> None:
        """Take a copy of ``reached`` and start to write it, once the save before is done.

        ``learned``: the learning rate has been above zero, so the adapter must do something. Raises
        TrainingError for an adapter that is empty, and what ``finish`` does.
        """
        self.finish()
        if learned and not any(t.any() for name, t in reached.lora.items() if ".lora_B." in name):
            raise TrainingError(
                f"After step {reached.step} every LoRA B matrix is still zero, so the adapter "
                "would change nothing: raise learning_rate."
            )
        self._kept.append(reached.step)
        keep = {*self._kept, reached.best.step}
        assert self._copy is not None, "no saves were to come"
        copy = self._copy.of(reached)  # nobody reads the one before: that save is done
        self._writing = _Writing(self._folder, copy, keep, is_first=not self._proven)

    def tell(self) -> None:
        """Say that a save is complete, if one is."""
        if self._writing is not None and self._writing.is_done():
            self.finish()

    def finish(self) -> None:
        """Wait for the save that is being written, if there is one, and say that it is complete.

        A full disk is waited for. Raises DiskFull if ``pause`` gave up, RunError where the disk
        refuses for another reason.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except DiskFull:
            when_there_is_room(writing.write, emit=self._emit, pause=self._pause)
        self._proven, self._newest = True, writing.step
        self._emit(
            CheckpointSaved(
                step=writing.step,
                path=str(checkpoint_path(self._folder, writing.step)),
                seconds=writing.seconds,
            )
        )

    def abandon(self) -> None:
        """The training broke off: give the disk a moment. What is not whole then never counts."""
        if self._writing is not None and self._writing.is_saved_within(GIVE_UP_SECONDS):
            self._newest = self._writing.step

    def load_best(self, reached: Checkpoint, like: Mapping[str, Tensor]) -> Checkpoint | None:
        """The best checkpoint; None, with a notice, if it is damaged or gone."""
        path = checkpoint_path(self._folder, reached.best.step)
        try:
            return load(path, like=like, fingerprint=reached.fingerprint)
        except CheckpointError as error:
            self._emit(
                Notice(
                    message="The checkpoint with the lowest held-out loss cannot be used, so the "
                    f"last step is exported. {error}"
                )
            )
            return None


class _Writing:
    """One checkpoint on its way to the disk, by a thread of its own."""

    def __init__(
        self, folder: Path, checkpoint: Checkpoint, keep: Collection[int], *, is_first: bool
    ) -> None:
        self.step, self.seconds = checkpoint.step, 0.0
        self._folder, self._checkpoint, self._keep = folder, checkpoint, keep
        self._is_first = is_first
        self._error: RepotuneError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def is_saved_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return self.is_done() and self._error is None

    def result(self) -> None:
        """Wait; raises what the thread did."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def write(self) -> None:
        """Save, prove the first one by reading it back, remove what is not kept any more."""
        started, checkpoint = time.perf_counter(), self._checkpoint
        path = save(self._folder, checkpoint)
        if self._is_first:
            load(path, like=checkpoint.lora, fingerprint=checkpoint.fingerprint)
        prune(self._folder, keep=self._keep)
        self.seconds = time.perf_counter() - started

    def _run(self) -> None:
        try:
            self.write()
        except RepotuneError as error:
            self._error = error


class HostCopy:
    """Host memory for a state as ``like``, where the next step does not change it.

    It is written to at once: a page that the system has only promised is fetched when it is first
    used, and those of 480 MB took up to two seconds in which the training stood still.
    """

    def __init__(self, like: Checkpoint) -> None:
        groups = (like.lora, like.exp_avg, like.exp_avg_sq)
        numbers = sum(tensor.numel() for group in groups for tensor in group.values())
        rest = torch.empty(numbers, dtype=torch.float32).zero_()
        self._groups = []
        for group in groups:
            sizes = [tensor.numel() for tensor in group.values()]
            *parts, rest = torch.split(rest, [*sizes, len(rest) - sum(sizes)])
            named = zip(group.items(), parts, strict=True)
            self._groups.append({name: part.view(one.shape) for (name, one), part in named})

    def of(self, checkpoint: Checkpoint) -> Checkpoint:
        """The same as ``checkpoint``, in this memory: the copy before is overwritten."""
        lora, exp_avg, exp_avg_sq = self._groups
        for group, source in (
            (lora, checkpoint.lora),
            (exp_avg, checkpoint.exp_avg),
            (exp_avg_sq, checkpoint.exp_avg_sq),
        ):
            for name, tensor in group.items():
                tensor.copy_(source[name])
        return replace(checkpoint, lora=lora, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
