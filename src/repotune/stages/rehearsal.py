"""The whole way in small, before a run of hours: what would break at its end breaks now.

Five steps of one forward pass each, with a checkpoint after the third from which the last two go
on; then export, loading, one completion. In a folder beside the run, which is removed; the decoder
ends as it began.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import torch

from repotune.durable import pause_unless
from repotune.errors import RepotuneError, RunError
from repotune.evaluation import complete_at
from repotune.events import Emit, Event, Healed, Notice, StageDone, StageStarted
from repotune.export import export_adapter, load_adapter
from repotune.job import Job
from repotune.model import Decoder
from repotune.records import Passes, Plan
from repotune.runs import RunFolder
from repotune.signals import stop_on_signals
from repotune.stages.tuning import record_healing, steps_of, train_once
from repotune.tokens import RowStore
from repotune.training import latest, load

STAGE: Final = "rehearsal"
STEPS, SAVED_AT = 5, 3
LONG_HOURS: Final = 1 / 6
"""Of a plan: shorter runs show soon enough themselves what is wrong."""
LONG_STEPS: Final = 100
"""Where nobody can plan the hours."""
CODE: Final = "def add(first, second):\n    return first"
NEW_TOKENS: Final = 8


def is_worth_it(folder: RunFolder, job: Job, rows: RowStore, made: Plan | None) -> bool:
    """Whether a run is wanted, not begun yet, and long enough for a rehearsal before it."""
    if not job.config.rehearsal or any(folder.checkpoints.glob("step-*")):
        return False
    if made is None:
        return steps_of(job, len(rows)) > LONG_STEPS
    return made.hours.expected > LONG_HOURS


def rehearse(
    folder: RunFolder, job: Job, decoder: Decoder, rows: RowStore, passes: Passes, emit: Emit
) -> Passes:
    """Go the whole way in small, and say how the run should begin: as ``passes``, or as memory
    allowed where it ran out.

    Raises RunError that says which part failed, and why; KeyboardInterrupt if a signal asks to
    stop.
    """
    started = time.perf_counter()
    place = folder.path.with_name(f".{folder.path.name}.rehearsal")
    emit(StageStarted(stage=STAGE))
    initial = _copy(decoder)
    try:
        _remove(place)
        allowed = _go(place, job, decoder, rows, passes, partial(_lasting, folder, emit))
    finally:
        _restore(decoder, initial)
        _remove(place)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # or the run would seem to take what the completion took
    seconds = time.perf_counter() - started
    emit(StageDone(stage=STAGE, summary=f"trained, saved, resumed, exported, in {seconds:.0f} s"))
    if allowed != passes:
        tokens = job.config.max_seq_length // allowed.cuts
        emit(
            Notice(
                message="The run begins with what fitted in the rehearsal: "
                f"{allowed.rows} × {tokens:,} tokens at once, and {allowed.policy.reason}"
            )
        )
        folder.update(facts={"policy": asdict(allowed.policy)})
    return allowed


def _go(
    place: Path, job: Job, decoder: Decoder, rows: RowStore, passes: Passes, emit: Emit
) -> Passes:
    part = "training and saving"
    try:
        passes = _train(place, job, decoder, rows, passes, emit, steps=SAVED_AT)
        part = "resuming"
        _restore(decoder, {name: torch.zeros_like(one) for name, one in _copy(decoder).items()})
        passes = _train(place, job, decoder, rows, passes, emit, steps=STEPS)
        part = "exporting"
        trained = _copy(decoder)
        export_adapter(place / "adapter", decoder.lora_state(), lora=job.lora, base=job.base)
        part = "loading the adapter"
        _restore(decoder, {name: torch.zeros_like(one) for name, one in trained.items()})
        load_adapter(place / "adapter", decoder.lora_state(), lora=job.lora)
        decoder.refresh()
        if not all(torch.equal(one, trained[name]) for name, one in _copy(decoder).items()):
            raise RunError("The loaded adapter is not the one that was exported.")
        part = "completing code"
        complete_at(
            decoder, job.tokenizer, CODE, path="add.py", line=2, column=None, suffix=None,
            max_new_tokens=NEW_TOKENS, max_seq_length=max(job.config.max_seq_length, 64),
        )  # fmt: skip
    except (RepotuneError, RuntimeError, OSError, ValueError) as error:
        raise RunError(
            f"The rehearsal failed at {part}, before any hour was spent: {error} To skip the "
            "rehearsal, use --no-rehearsal."
        ) from error
    return passes


def _train(
    place: Path, job: Job, decoder: Decoder, rows: RowStore, passes: Passes, emit: Emit, *,
    steps: int,
) -> Passes:  # fmt: skip
    """Go on from the newest checkpoint in ``place`` to ``steps``; the passes at the end."""
    newest = latest(place, emit)
    start = newest and load(newest, like=decoder.lora_state(), fingerprint=STAGE)
    with stop_on_signals() as should_stop:
        done = train_once(
            job, decoder, rows, passes, steps=steps, save_steps=SAVED_AT, checkpoints=place,
            fingerprint=STAGE, about={}, resume_from=start or None, heldout=None, emit=emit,
            should_stop=should_stop, pause=partial(pause_unless, should_stop),
            only_one_pass=True,
        )  # fmt: skip
    if done.interrupted:
        raise KeyboardInterrupt
    return done.passes


def _copy(decoder: Decoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in decoder.lora_state().items()}


def _restore(decoder: Decoder, values: dict[str, torch.Tensor]) -> None:
    state = decoder.lora_state()
    for name, tensor in values.items():
        state[name].copy_(tensor)
    decoder.refresh()


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)


def _lasting(folder: RunFolder, emit: Emit, event: Event) -> None:
    """Steps of a rehearsal are not the run's; what it says is, and what it healed."""
    if isinstance(event, Healed):
        record_healing(folder, event, stage=STAGE)
    if isinstance(event, Notice | Healed):
        emit(event)
