"""The training of a run: from its newest whole checkpoint to the best weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from repotune.corpus import read_documents
from repotune.durable import pause_unless, when_there_is_room
from repotune.evaluation import sample_loss, sample_rows
from repotune.events import Emit, Event, Healed, Notice
from repotune.job import Job, lower_policy, training_fingerprint
from repotune.machine import deterministic_gpu, slowed_by
from repotune.model import Decoder
from repotune.planning import ON_CPU, ON_GPU
from repotune.records import Passes, Row, TrainResult
from repotune.runs import RunFolder
from repotune.signals import stop_on_signals
from repotune.tokens import RowStore
from repotune.training import (
    Checkpoint,
    Heldout,
    LossScale,
    latest,
    load,
    log_metrics,
    total_steps,
    train,
)


def train_on(
    folder: RunFolder, job: Job, decoder: Decoder, rows: RowStore, passes: Passes, emit: Emit, *,
    memory: Callable[[], int],
) -> TrainResult:  # fmt: skip
    """Train to the end, or until a signal asks to stop; metrics and events are written down.

    ``passes``: how it begins. ``memory``: the most bytes that were taken since it was last asked.

    Raises what ``training.train`` does.
    """
    fingerprint = training_fingerprint(job, rows.summary.fingerprint)
    checkpoint = latest(folder.checkpoints, emit)
    resume_from = None
    if checkpoint is not None:
        resume_from = load(checkpoint, like=decoder.lora_state(), fingerprint=fingerprint)
        resumed = folder.state().facts.get("resumed", [])
        folder.update(facts={"resumed": [*resumed, resume_from.step]})
    elif any(folder.checkpoints.glob("step-*")):
        emit(Notice(message="No checkpoint is whole, so the training begins anew, at step 0."))
    with stop_on_signals() as should_stop:
        pause = partial(pause_unless, should_stop)
        reached = resume_from.step if resume_from else 0
        with log_metrics(
            folder.metrics, folder.tensorboard, reached=reached, memory=memory, emit=emit,
            pause=pause,
        ) as log:  # fmt: skip

            def tell(event: Event) -> None:
                log(event)
                if isinstance(event, Healed):
                    record = partial(record_healing, folder, event, stage="training")
                    when_there_is_room(record, emit=emit, pause=pause)
                emit(event)

            return train_once(
                job, decoder, rows, passes, steps=steps_of(job, len(rows)),
                save_steps=job.config.save_steps, checkpoints=folder.checkpoints,
                fingerprint=fingerprint, about=_about(folder), resume_from=resume_from,
                heldout=_heldout(job, decoder, heldout_sample(folder, job), should_stop),
                emit=tell, should_stop=should_stop, pause=pause,
            )  # fmt: skip


def train_once(
    job: Job, decoder: Decoder, rows: RowStore, passes: Passes, *, steps: int, save_steps: int,
    checkpoints: Path, fingerprint: str, about: Mapping[str, Any],
    resume_from: Checkpoint | None, heldout: Heldout | None, emit: Emit,
    should_stop: Callable[[], bool], pause: Callable[[], bool],
    only_one_pass: bool = False,
) -> TrainResult:  # fmt: skip
    """``training.train`` with the settings of ``job``; a step is one forward pass if asked for."""
    config = job.config
    with deterministic_gpu(config.deterministic):
        return train(
            decoder,
            rows,
            batch_size=job.rows_per_pass if only_one_pass else config.batch_size,
            gradient_accumulation_steps=1 if only_one_pass else config.gradient_accumulation_steps,
            passes=passes,
            steps=steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_scheduler_type,
            warmup_ratio=config.warmup_ratio,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            dropout=config.lora_dropout > 0,
            loss_scale=LossScale() if job.precision == "fp16" else None,
            save_steps=save_steps,
            checkpoints=checkpoints,
            fingerprint=fingerprint,
            about=about,
            resume_from=resume_from,
            heldout=heldout,
            replan=partial(lower_policy, job),
            may_cut_rows=config.allow_shorter_rows,
            conditions=partial(slowed_by, on_gpu=job.machine.gpu is not None),
            emit=emit,
            should_stop=should_stop,
            pause=pause,
        )


def steps_of(job: Job, rows: int) -> int:
    """Optimizer steps of the whole run."""
    return total_steps(
        rows,
        batch_size=job.config.batch_size,
        gradient_accumulation_steps=job.config.gradient_accumulation_steps,
        num_train_epochs=job.config.num_train_epochs,
        max_steps=job.config.max_steps,
    )


def heldout_sample(folder: RunFolder, job: Job) -> tuple[Row, ...]:
    """The held-out rows whose loss is measured during the training; empty if none can be."""
    documents = read_documents(folder.corpus, "heldout")
    return sample_rows(
        documents,
        job.tokenizer,
        max_seq_length=job.config.max_seq_length,
        max_tokens=(ON_GPU if job.machine.gpu else ON_CPU).sample_tokens,
        seed=job.config.seed,
    )


def _heldout(
    job: Job, decoder: Decoder, sample: tuple[Row, ...], should_stop: Callable[[], bool]
) -> Heldout | None:
    if not sample:
        return None
    return Heldout(
        measure=partial(sample_loss, decoder, sample, should_stop=should_stop),
        every_steps=job.config.eval_steps or job.config.save_steps,
        patience=job.config.early_stopping_patience or None,
    )


def _about(folder: RunFolder) -> dict[str, Any]:
    """What a checkpoint says of its run, so that it can be understood without it."""
    state = folder.state()
    return {
        "tree": state.tree,
        "model": state.facts.get("model", state.model),
        "config": state.config,
        "versions": state.versions,
    }


def record_healing(folder: RunFolder, event: Healed, *, stage: str) -> None:
    """Note it in the run, and how the run goes on. Raises RunError or DiskFull."""
    noted = {"stage": stage, **asdict(event)}
    passes = noted.pop("passes")
    healed = folder.state().facts.get("healed", [])
    folder.update(facts={"healed": [*healed, noted], "passes": passes})


def record_training(folder: RunFolder, trained: TrainResult) -> None:
    """Write down what came out; the speed is an earlier process's if this had no steps to do."""
    facts, before = asdict(trained), folder.state().facts.get("training")
    if before is not None and not trained.tokens_per_second:
        facts.update({name: before[name] for name in ("seconds", "tokens_per_second")})
    folder.update(facts={"training": facts})
