"""The training loop: step after step, until all are done or somebody asks to stop."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from repotune.errors import TrainingError
from repotune.events import CheckpointSaved, Emit, Notice, StageDone, StageStarted, StepDone
from repotune.records import Policy, TrainResult
from repotune.training.checkpoint import Checkpoint, checkpoint_path, load, prepare, prune, save
from repotune.training.loss_scale import LEAST, LossScale
from repotune.training.optimizer import AdamW
from repotune.training.order import Rows, SampleOrder
from repotune.training.schedule import LrSchedulerType, learning_rate_at, warmup_steps
from repotune.training.step import StepFigures, Trainable, train_step

KEPT_CHECKPOINTS = 2
_STAGE = "training"
_WINDOW_STEPS = 20
"""Speed is the mean over this many steps: steady enough to read, and it follows the machine."""


def total_steps(
    rows: int,
    *,
    batch_size: int,
    gradient_accumulation_steps: int,
    num_train_epochs: float,
    max_steps: int | None,
) -> int:
    """Optimizer steps of a run: ``max_steps``, or as many as the epochs' rows fill, rounded up."""
    if max_steps is not None:
        return max_steps
    exact = num_train_epochs * rows / (batch_size * gradient_accumulation_steps)
    # 1e-9: the rounding error of a product such as 1.1 * 10 is not worth another step
    return max(1, math.ceil(exact - 1e-9))


def train(
    decoder: Trainable,
    rows: Rows,
    *,
    batch_size: int,
    gradient_accumulation_steps: int,
    rows_per_pass: int,
    steps: int,
    learning_rate: float,
    lr_scheduler_type: LrSchedulerType,
    warmup_ratio: float,
    weight_decay: float,
    max_grad_norm: float,
    seed: int,
    policy: Policy,
    dropout: bool,
    loss_scale: LossScale | None,
    save_steps: int,
    checkpoints: Path,
    fingerprint: str,
    resume_from: Checkpoint | None,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> TrainResult:
    """Train ``decoder`` in place to ``steps`` optimizer steps, from ``resume_from`` or from 0.

    A checkpoint, marked with ``fingerprint``, goes into ``checkpoints`` every ``save_steps`` and at
    the end. ``rows_per_pass`` rows go through the model at once: the result is the same (but for
    dropout, which is drawn by pass), and the memory is not. ``dropout``: whether the rows get
    seeds for it. ``loss_scale``: fp16's, to start with (see ``loss_scale.py``); None: none. After a
    step at which ``should_stop`` says yes, the step is saved and the result is ``interrupted``. On
    a CPU a resumed run is, bit for bit, the uninterrupted one.

    Raises TrainingError if a loss is not finite, a gradient is not even with a loss scale of 1, or
    there is nothing to learn from; DiskFull or RunError if a checkpoint cannot be written.
    """
    started = time.perf_counter()
    global_batch = batch_size * gradient_accumulation_steps
    _check_rows(len(rows), global_batch, emit)
    optimizer = AdamW(
        decoder.lora_flat(), decoder.lora_state(), weight_decay=weight_decay,
        on_host=policy.optimizer_offloaded,
    )  # fmt: skip
    reached = _start(decoder, optimizer, resume_from, loss_scale, seed, fingerprint)
    saver = _Saver(checkpoints, reached, saves=math.ceil((steps - reached.step) / save_steps))
    order = SampleOrder(rows, seed=seed, dropout=dropout)
    rate_at = partial(
        learning_rate_at, steps=steps, warmup=warmup_steps(warmup_ratio, steps),
        peak=learning_rate, kind=lr_scheduler_type,
    )  # fmt: skip
    pace, stop = _Pace(steps), _Stop(should_stop, emit)
    emit(StageStarted(stage=_STAGE, total=steps, unit="steps"))
    while reached.step < steps and not stop.asked:
        step, rate = reached.step + 1, rate_at(reached.step)
        figures = train_step(
            decoder, optimizer, order.batch(reached.cursor, global_batch), step=step,
            learning_rate=rate, max_grad_norm=max_grad_norm, policy=policy,
            rows_per_pass=rows_per_pass,
            loss_scale=None if reached.loss_scale is None else reached.loss_scale.value,
            between_passes=partial(stop.ask, step),
        )  # fmt: skip
        reached = _advance(reached, figures, global_batch, emit)
        emit(pace.step_done(step, rate, figures))
        stop.ask(step)
        if step % save_steps == 0 or step == steps or stop.asked:
            emit(saver.save(reached, learned=rate > 0 and figures.grad_norm is not None))
    seconds = time.perf_counter() - started
    emit(StageDone(stage=_STAGE, summary=_summary(reached)))
    return TrainResult(
        steps=reached.step,
        tokens=reached.tokens,
        seconds=seconds,
        tokens_per_second=pace.tokens / seconds,
        first_loss=reached.first_loss,
        last_loss=reached.last_loss,
        interrupted=stop.asked,
        checkpoint=saver.newest,
    )


def _check_rows(rows: int, global_batch: int, emit: Emit) -> None:
    if not rows:
        raise TrainingError("There are no rows to train on: give it more source code.")
    if rows < global_batch:
        emit(
            Notice(
                message=f"The corpus fills {rows} rows and a step takes {global_batch}, so each "
                "step sees rows more than once: a smaller batch_size or "
                "gradient_accumulation_steps would fit it better."
            )
        )


def _start(
    decoder: Trainable,
    optimizer: AdamW,
    resume_from: Checkpoint | None,
    loss_scale: LossScale | None,
    seed: int,
    fingerprint: str,
) -> Checkpoint:
    """The state before the first step of this process, over the live tensors."""
    state = decoder.lora_state()
    fresh = Checkpoint(
        step=0,
        cursor=0,
        seed=seed,
        fingerprint=fingerprint,
        tokens=0,
        first_loss=math.nan,
        last_loss=math.nan,
        loss_scale=loss_scale,
        lora=state,
        exp_avg=optimizer.exp_avg,
        exp_avg_sq=optimizer.exp_avg_sq,
    )
    if resume_from is None:
        return fresh
    for name, tensor in resume_from.lora.items():
        state[name].copy_(tensor)
    decoder.refresh()
    optimizer.restore(
        steps=resume_from.step - resume_from.skipped,
        exp_avg=resume_from.exp_avg,
        exp_avg_sq=resume_from.exp_avg_sq,
    )
    return replace(
        fresh,
        step=resume_from.step,
        cursor=resume_from.cursor,
        tokens=resume_from.tokens,
        first_loss=resume_from.first_loss,
        last_loss=resume_from.last_loss,
        loss_scale=resume_from.loss_scale,
    )


def _advance(
    reached: Checkpoint, figures: StepFigures, global_batch: int, emit: Emit
) -> Checkpoint:
    """The state after a step. Raises TrainingError once an overflow cannot be scaled away."""
    return replace(
        reached,
        step=reached.step + 1,
        cursor=reached.cursor + global_batch,
        tokens=reached.tokens + figures.tokens,
        first_loss=reached.first_loss if reached.step else figures.loss,
        last_loss=figures.loss,
        loss_scale=_next_scale(reached, figures, emit),
    )


def _next_scale(reached: Checkpoint, figures: StepFigures, emit: Emit) -> LossScale | None:
    if reached.loss_scale is None:
        return None
    overflowed, step = figures.grad_norm is None, reached.step + 1
    after = reached.loss_scale.after(overflowed)
    if after.value < LEAST:
        raise TrainingError(
            f"The gradient of step {step} overflows fp16 even with a loss scale of {LEAST:.0f}, "
            "and the weights stay as they were before it: start again with a lower "
            'learning_rate, or with precision = "fp32".'
        )
    if overflowed:
        emit(
            Notice(
                message=f"The gradient of step {step} overflowed fp16: its update is skipped, and "
                f"the loss scale is {after.value:,.0f} from now on."
            )
        )
    return after


def _summary(reached: Checkpoint) -> str:
    skipped = f" ({reached.skipped} skipped)" if reached.skipped else ""
    return f"{reached.step} steps{skipped}, {reached.tokens:,} tokens"


class _Saver:
    """Saves checkpoints, proves the first by reading it back, keeps the newest two."""

    def __init__(self, folder: Path, reached: Checkpoint, *, saves: int) -> None:
        self._folder = folder
        self._kept = deque([reached.step] if reached.step else [], maxlen=KEPT_CHECKPOINTS)
        self._proven = False
        # The next one is written before the oldest goes.
        at_once = min(saves, KEPT_CHECKPOINTS + 1 - len(self._kept))
        prepare(folder, reached.lora, checkpoints=at_once)

    @property
    def newest(self) -> str | None:
        return checkpoint_path(self._folder, self._kept[-1]).name if self._kept else None

    def save(self, reached: Checkpoint, *, learned: bool) -> CheckpointSaved:
        """``learned``: the learning rate has been above zero, so the adapter must do something."""
        started = time.perf_counter()
        if learned and not any(t.any() for name, t in reached.lora.items() if ".lora_B." in name):
            raise TrainingError(
                f"After step {reached.step} every LoRA B matrix is still zero, so the adapter "
                "would change nothing: raise learning_rate."
            )
        path = save(self._folder, reached)
        if not self._proven:
            load(path, like=reached.lora, fingerprint=reached.fingerprint)
            self._proven = True
        self._kept.append(reached.step)
        prune(self._folder, keep=self._kept)
        return CheckpointSaved(
            step=reached.step, path=str(path), seconds=time.perf_counter() - started
        )


class _Pace:
    """How fast it goes, and for how long still."""

    def __init__(self, steps: int) -> None:
        self.tokens = 0
        self._steps = steps
        self._window: deque[tuple[float, int]] = deque(maxlen=_WINDOW_STEPS)
        self._last = time.perf_counter()

    def step_done(self, step: int, learning_rate: float, figures: StepFigures) -> StepDone:
        """The event for ``step``, whose time is all that passed since the one before."""
        now = time.perf_counter()
        self._window.append((now - self._last, figures.tokens))
        self._last = now
        self.tokens += figures.tokens
        seconds = sum(seconds for seconds, _ in self._window)
        return StepDone(
            step=step,
            steps=self._steps,
            loss=figures.loss,
            grad_norm=figures.grad_norm,
            learning_rate=learning_rate,
            loss_scale=figures.loss_scale,
            tokens=figures.tokens,
            tokens_per_second=sum(tokens for _, tokens in self._window) / seconds,
            seconds_left=(self._steps - step) * seconds / len(self._window),
        )


class _Stop:
    """Asks whether to stop, and says once that it heard, since a step can take a minute."""

    def __init__(self, should_stop: Callable[[], bool], emit: Emit) -> None:
        self.asked = False
        self._should_stop, self._emit = should_stop, emit

    def ask(self, step: int) -> None:
        if not self.asked and self._should_stop():
            self.asked = True
            self._emit(
                Notice(
                    message=f"Stopping: step {step} is finished and saved first; "
                    "a second Ctrl-C stops at once."
                )
            )
