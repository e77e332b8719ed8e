"""The training loop: step after step, until all are done or somebody asks to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from repotune.errors import DoesNotFit, RepotuneError, TrainingError
from repotune.events import Emit, Notice, StageDone, StageStarted
from repotune.model.new_tokens import SUFFIX
from repotune.records import Passes, TrainResult
from repotune.training.checkpoint import Checkpoint
from repotune.training.healing import HalfUpdated, Memory, Replan, explaining_a_lost_gpu
from repotune.training.heldout import Heldout, is_due, is_over, measured
from repotune.training.loss_scale import LEAST, LossScale
from repotune.training.optimizer import AdamW
from repotune.training.order import Rows, SampleOrder, cut
from repotune.training.pace import Dropped, Pace, Stop
from repotune.training.saver import Saver
from repotune.training.schedule import LrSchedulerType, learning_rate_at, warmup_steps
from repotune.training.step import StepFigures, Trainable, train_step
from repotune.training.watch import Conditions, Watch, watching

_STAGE = "training"


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
    decoder: Trainable, rows: Rows, *, batch_size: int, gradient_accumulation_steps: int,
    passes: Passes, steps: int, learning_rate: float, lr_scheduler_type: LrSchedulerType,
    warmup_ratio: float, weight_decay: float, max_grad_norm: float, seed: int, dropout: bool,
    loss_scale: LossScale | None, save_steps: int, checkpoints: Path,
    fingerprint: str, about: Mapping[str, Any], resume_from: Checkpoint | None,
    heldout: Heldout | None, replan: Replan, may_cut_rows: bool, conditions: Conditions, emit: Emit,
    should_stop: Callable[[], bool], pause: Callable[[], bool],
) -> TrainResult:  # fmt: skip
    """Train ``decoder`` in place to ``steps`` optimizer steps, from ``resume_from`` or from 0.

    A checkpoint, marked with ``fingerprint`` and ``about``, goes into ``checkpoints`` every
    ``save_steps``, at each held-out measurement and at the end; while the disk is full, each
    ``pause`` is followed by another try until it says no. ``passes`` is how rows go through the
    model at first: the result is the same (but for dropout, which is drawn by pass), and the memory
    is not. Where it runs out, ``replan`` says what to do (see ``healing``), and ``may_cut_rows``
    what is allowed. ``dropout``: whether the rows get seeds for it; ``loss_scale``: fp16's, to
    start with, None: none. Where ``should_stop`` says yes, what is done is saved and the result is
    ``interrupted``; a step that would take long is dropped, and done again when the run is resumed.
    At the end the weights are those of the lowest held-out loss, if that was measured. On a CPU a
    resumed run is, bit for bit, the uninterrupted one.

    Raises TrainingError if a loss is not finite, a gradient is not even with a loss scale of 1,
    there is nothing to learn from or the GPU is lost, DoesNotFit if memory runs out whatever is
    done, DiskFull or RunError if a checkpoint cannot be written.
    """
    started = time.perf_counter()
    global_batch = batch_size * gradient_accumulation_steps
    _check_rows(len(rows), global_batch, emit)
    state = decoder.lora_state()
    optimizer = AdamW(
        decoder.lora_flat(), state, weight_decay=weight_decay,
        on_host=passes.policy.optimizer_offloaded,
        # Zero is no place for a row of an embedding, as it is for a change of the weights.
        undecayed=[name for name in state if name.endswith(SUFFIX)],
    )  # fmt: skip
    reached = _start(decoder, optimizer, resume_from, loss_scale, seed, fingerprint, about)
    saver = Saver(
        checkpoints, reached, saves=_saves(steps - reached.step, save_steps, heldout),
        keeps_best=heldout is not None, emit=emit, pause=pause,
    )  # fmt: skip
    memory = Memory(
        passes, replan=replan, release=partial(_release, decoder), may_cut_rows=may_cut_rows,
        emit=emit,
    )  # fmt: skip
    pace, stop = Pace(steps), Stop(should_stop, emit)
    emit(StageStarted(stage=_STAGE, total=steps, unit="steps"))
    with watching(emit, conditions) as watch:
        run = _Run(
            decoder=decoder, optimizer=optimizer,
            order=SampleOrder(rows, seed=seed, dropout=dropout), memory=memory,
            saver=saver, heldout=heldout, watch=watch, pace=pace, stop=stop,
            emit=emit, steps=steps, global_batch=global_batch, save_steps=save_steps,
            max_grad_norm=max_grad_norm,
            rate_at=partial(
                learning_rate_at, steps=steps, warmup=warmup_steps(warmup_ratio, steps),
                peak=learning_rate, kind=lr_scheduler_type,
            ),
        )  # fmt: skip
        with explaining_a_lost_gpu(lambda: saver.newest):
            try:
                reached = run.from_here(reached)
                saver.finish()
            except BaseException:
                saver.abandon()
                raise
    stopped_early = reached.step < steps and is_over(reached, heldout)
    _tell_end(reached, stopped_early, emit)
    if not stop.asked:
        _take_best(decoder, saver, reached)
    seconds = time.perf_counter() - started
    return TrainResult(
        steps=reached.step, tokens=reached.tokens, seconds=seconds,
        tokens_per_second=pace.tokens / seconds, first_loss=reached.first_loss,
        last_loss=reached.last_loss, interrupted=stop.asked, checkpoint=saver.newest,
        passes=memory.passes, best_step=reached.best.step or None, heldout_loss=reached.best.loss,
        stopped_early=stopped_early,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the steps of one process need."""

    decoder: Trainable
    optimizer: AdamW
    order: SampleOrder
    memory: Memory
    saver: Saver
    heldout: Heldout | None
    watch: Watch
    pace: Pace
    stop: Stop
    emit: Emit
    steps: int
    global_batch: int
    save_steps: int
    max_grad_norm: float
    rate_at: Callable[[int], float]

    def from_here(self, reached: Checkpoint) -> Checkpoint:
        """Step after step, until all are done, there is no use in more, or somebody asks to stop.

        What is due follows from ``reached`` alone, so a resumed run does what an uninterrupted one
        would do next.
        """
        while not self.stop.asked:
            if self.heldout is not None and is_due(reached, self.heldout, self.steps):
                reached = measured(reached, self.heldout, self.emit)
                self.stop.ask()
            elif reached.step >= self.steps or is_over(reached, self.heldout):
                break
            else:
                try:
                    reached = self._next(reached)
                except HalfUpdated:
                    raise
                except (TrainingError, DoesNotFit):
                    with suppress(RepotuneError):  # the step's own error says more
                        self._save(reached)  # the weights are those of the last good step
                        self.saver.finish()
                    raise
                self._save_if_due(reached)
        return reached

    def _next(self, reached: Checkpoint) -> Checkpoint:
        """The state a step later; the same one if the step was dropped because of a stop."""
        step, rate = reached.step + 1, self.rate_at(reached.step)
        samples = self.order.batch(reached.cursor, self.global_batch)

        def attempt(passes: Passes) -> StepFigures:
            if passes.policy.optimizer_offloaded:
                self.optimizer.move_to_host()
            cut_samples = cut(samples, passes.cuts)
            self.stop.begin_step(passes=math.ceil(len(cut_samples) / passes.rows))
            return train_step(
                self.decoder, self.optimizer, cut_samples, step=step, learning_rate=rate,
                max_grad_norm=self.max_grad_norm, policy=passes.policy, rows_per_pass=passes.rows,
                loss_scale=None if reached.loss_scale is None else reached.loss_scale.value,
                between_layers=self.stop.between_layers,
                between_passes=self.stop.between_passes,
            )  # fmt: skip

        self.watch.begin()
        try:
            figures = self.memory.run(
                attempt, step=step, tokens_per_row=len(samples[0].row.input_ids),
                updates=lambda: self.optimizer.updates,
            )  # fmt: skip
        except Dropped:
            self.decoder.release()
            return reached
        reached = _advance(reached, figures, self.global_batch, self.emit)
        self.emit(self.pace.step_done(step, rate, figures))
        self.watch.done(step, figures.loss)
        self.saver.tell()
        self.stop.end_step()
        return reached

    def _save_if_due(self, reached: Checkpoint) -> None:
        at_end = reached.step == self.steps or self.stop.asked
        at_measurement = is_due(reached, self.heldout, self.steps)
        if at_end or at_measurement or reached.step % self.save_steps == 0:
            self._save(reached)

    def _save(self, reached: Checkpoint) -> None:
        if reached.step and not self.saver.has(reached.step):
            # A step that overflowed changed nothing.
            updated = reached.loss_scale is None or reached.loss_scale.clean_steps > 0
            self.saver.begin(reached, learned=self.rate_at(reached.step - 1) > 0 and updated)


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
    decoder: Trainable, optimizer: AdamW, resume_from: Checkpoint | None,
    loss_scale: LossScale | None, seed: int, fingerprint: str, about: Mapping[str, Any],
) -> Checkpoint:  # fmt: skip
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
        about=about,
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
        best=resume_from.best,
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


def _saves(steps: int, save_steps: int, heldout: Heldout | None) -> int:
    """At most so many checkpoints are written in ``steps`` steps."""
    measurements = 0 if heldout is None else math.ceil(steps / heldout.every_steps)
    return math.ceil(steps / save_steps) + measurements


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


def _release(decoder: Trainable) -> None:
    decoder.release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tell_end(reached: Checkpoint, stopped_early: bool, emit: Emit) -> None:
    best = reached.best
    if stopped_early:
        emit(
            Notice(
                message=f"Stopped early: the held-out loss was not lower in {best.worse} "
                f"measurements than the {best.loss:.4f} after step {best.step}."
            )
        )
    skipped = f" ({reached.skipped} skipped)" if reached.skipped else ""
    summary = f"{reached.step} steps{skipped}, {reached.tokens:,} tokens"
    emit(StageDone(stage=_STAGE, summary=summary))


def _take_best(decoder: Trainable, saver: Saver, reached: Checkpoint) -> None:
    """Give the decoder the weights of the lowest held-out loss, if that is an earlier step's."""
    if reached.best.step in (0, reached.step):
        return
    state = decoder.lora_state()
    best = saver.load_best(reached, like=state)
    if best is not None:
        for name, tensor in best.lora.items():
            state[name].copy_(tensor)
        decoder.refresh()
