"""How the loop saves: the first checkpoint is proven, the best and the last two are kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from repotune.durable import when_there_is_room
from repotune.errors import CheckpointError, TrainingError
from repotune.events import CheckpointSaved, Emit, Notice
from repotune.training.checkpoint import Checkpoint, checkpoint_path, load, prepare, prune, save

KEPT_CHECKPOINTS: Final = 2
"""The newest, so that damage to one loses ``save_steps`` steps; the best is kept beside them."""


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
        self._proven = False
        # The next one is written before the oldest goes.
        at_once = KEPT_CHECKPOINTS + 1 + keeps_best - len({*self._kept, reached.best.step} - {0})
        prepare(folder, reached.lora, checkpoints=max(0, min(saves, at_once)))

    @property
    def newest(self) -> str | None:
        """The folder name of the last checkpoint, None where there is none."""
        return checkpoint_path(self._folder, self._kept[-1]).name if self._kept else None

    def has(self, step: int) -> bool:
        """Whether the state after ``step`` steps is on disk."""
        return step in self._kept

    def save(self, reached: Checkpoint, *, learned: bool) -> CheckpointSaved:
        """``learned``: the learning rate has been above zero, so the adapter must do something.

        A full disk is waited for. Raises TrainingError for an adapter that is empty, DiskFull if
        ``pause`` gave up, RunError where the disk refuses for another reason.
        """
        started = time.perf_counter()
        if learned and not any(t.any() for name, t in reached.lora.items() if ".lora_B." in name):
            raise TrainingError(
                f"After step {reached.step} every LoRA B matrix is still zero, so the adapter "
                "would change nothing: raise learning_rate."
            )
        path = when_there_is_room(
            lambda: save(self._folder, reached), emit=self._emit, pause=self._pause
        )
        if not self._proven:
            load(path, like=reached.lora, fingerprint=reached.fingerprint)
            self._proven = True
        if not self.has(reached.step):
            self._kept.append(reached.step)
        prune(self._folder, keep={*self._kept, reached.best.step})
        return CheckpointSaved(
            step=reached.step, path=str(path), seconds=time.perf_counter() - started
        )

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
