"""The whole way: a source tree in, an adapter and its proof out.

This is the only file that knows every room. Read ``tune`` and then ``_tune`` from top to bottom:
settle what "auto" means here, find the model, read the tree, make rows, train, export, evaluate.
Torch and what needs it are imported inside the verbs, once the arguments are known to be good.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repotune.config import FineTuningConfig
from repotune.errors import CorpusError, Interrupted, RepotuneError, RunError, UsageError
from repotune.events import Emit, Event, Notice, ignore
from repotune.forecast import (
    Meter,
    forecast,
    outcome,
    plan_facts,
    plan_line,
    prepare,
    suited_here,
    target_here,
)
from repotune.job import (
    CPU_MODEL,
    GPU_MODEL,
    Job,
    load_decoder,
    plan_policy,
    settle,
    training_fingerprint,
)
from repotune.records import (
    Completion,
    Evaluation,
    Outcome,
    Plan,
    Policy,
    RowsSummary,
    RunResult,
    TrainResult,
)
from repotune.runs import (
    RunFolder,
    RunInfo,
    create_run,
    default_run_path,
    find_run,
    list_runs,
    refuse_taken,
)

if TYPE_CHECKING:
    from repotune.model import Decoder
    from repotune.planning import Target
    from repotune.tokens import RowStore

CPU_EVAL_TOKENS = 30_000
CPU_CURSORS, GPU_CURSORS = 20, 100
CPU_PROMPT_TOKENS, GPU_PROMPT_TOKENS = 448, 4096
"""Of the code before a cursor; a CPU reads about 500 tokens a second."""
MAX_LINE_TOKENS = 64
"""A next line longer than this counts as not completed."""


class Location(NamedTuple):
    """A cursor in a file: 1-based line and column; no column: the end of the line."""

    path: Path
    line: int
    column: int | None


def tune(
    tree: str | Path, config: FineTuningConfig | None = None, *, emit: Emit = ignore
) -> RunResult:
    """Tune a model on the source code in ``tree``; the run's folder is in the result.

    ``config`` is taken as it is; None: the defaults, on a GPU with the settings that suit it.
    ``interrupted`` in the result says that Ctrl-C or SIGTERM ended it early, at a saved step.
    Raises RepotuneError (see ``errors.py``) for whatever the user can mend.
    """
    if config is None:
        return tune_suited(tree, FineTuningConfig(), emit=emit)
    return _start(tree, config, suit=False, emit=emit)


def tune_suited(tree: str | Path, base: FineTuningConfig, *, emit: Emit = ignore) -> RunResult:
    """``tune`` with ``base``, whose size settings give way to those that suit this machine's GPU:
    its preset, or the planner's choice. Without a GPU ``base`` is taken as it is."""
    return _start(tree, base, suit=True, emit=emit)


def _start(tree: str | Path, config: FineTuningConfig, *, suit: bool, emit: Emit) -> RunResult:
    root = Path(tree)
    if not root.exists():
        raise CorpusError(f"{tree} does not exist: give the path of a folder with source code.")
    if config.model not in (None, CPU_MODEL) and Path(config.model).expanduser().exists():
        # Absolute, so that the run can be resumed from any folder.
        config = config.merged({"model": str(Path(config.model).expanduser().absolute())})
    path = config.output_dir or default_run_path(root, Path.cwd(), datetime.now())
    if suit:
        refuse_taken(path)  # before what takes time
        config = suited_here(config, default_model=GPU_MODEL, emit=emit)
    was_there = path.exists()
    folder = create_run(
        path,
        tree=root,
        model=config.model or "",
        config=config.model_dump(mode="json"),
        # Without its own place, so that it serves for another run.
        config_toml=config.merged({"output_dir": None}).to_toml(),
    )
    try:
        return _work(folder, emit)
    except Interrupted:
        raise
    except RepotuneError:
        # A spelling mistake must not cost the folder: nothing of worth lies in it yet.
        if not folder.corpus.exists():
            folder.discard(also_the_folder=not was_there)
        raise


def resume(run: str | Path, *, emit: Emit = ignore) -> RunResult:
    """Go on with a run from its newest whole checkpoint, or from step 0 if it has none.

    Raises RunError if there is no such run, or it is finished.
    """
    folder = find_run(run, Path.cwd())
    if folder.state().status == "finished":
        raise RunError(
            f"{folder.path} is finished, and there is nothing to go on with: "
            f"see it again with `repotune evaluate {folder.path}`, or start a new run."
        )
    return _work(folder, emit)


def evaluate(
    run: str | Path, *, eval_max_tokens: int | None = None, emit: Emit = ignore
) -> Evaluation:
    """Compare base and tuned on a finished run's held-out files, and write ``evaluation.json``.

    ``eval_max_tokens`` goes before the run's own setting. Raises RunError if the run has no
    adapter yet, or held nothing out.
    """
    folder = find_run(run, Path.cwd())
    with folder.locked():
        job, decoder = _open_tuned(folder, emit)
        return _evaluate(folder, job, decoder, eval_max_tokens, emit)


def complete(
    run: str | Path, location: Location, *, max_new_tokens: int = 48, emit: Emit = ignore
) -> Completion:
    """Complete the code at ``location`` by the base model and by the tuned one.

    A relative path is seen from the current folder, then from the run's tree. Raises UsageError
    if there is no such place, RunError if the run has no adapter yet.
    """
    from repotune.corpus.decode import decode
    from repotune.evaluation import complete_at

    folder = find_run(run, Path.cwd())
    path = location.path
    if not path.exists():
        path = Path(folder.state().tree) / path
    if not path.is_file():
        raise UsageError(f"There is no file {location.path}, here or in the run's tree.")
    decoded = decode(path.read_bytes())
    if decoded is None:
        raise UsageError(f"{location.path} is not text in a known encoding: give a source file.")
    job, decoder = _open_tuned(folder, emit)
    return complete_at(
        decoder,
        job.tokenizer,
        decoded.text,
        path=location.path.as_posix(),
        line=location.line,
        column=location.column,
        max_new_tokens=max_new_tokens,
        max_seq_length=job.config.max_seq_length,
    )


def runs(folder: Path) -> list[RunInfo]:
    """The runs in ``folder``, oldest first."""
    return list_runs(folder)


def _work(folder: RunFolder, emit: Emit) -> RunResult:
    with folder.locked():
        folder.update(status="running")
        try:
            return _tune(folder, emit)
        except KeyboardInterrupt:
            folder.update(status="interrupted")
            raise Interrupted(
                f"Stopped; go on with `repotune tune --resume {folder.path}`."
            ) from None
        except BaseException:
            folder.update(status="failed")
            raise


def _tune(folder: RunFolder, emit: Emit) -> RunResult:
    from repotune.machine import Peak

    prepare(folder.state().config["max_steps"], emit)
    job = settle(folder.state(), emit)
    folder.update(facts=job.facts)
    policy = plan_policy(job)  # before the tree is read: what does not fit is said at once
    folder.update(facts={"policy": asdict(policy)})
    rows = _prepare_rows(folder, job, emit)
    planned = _plan(folder, job, rows.summary, policy, emit)
    meter = Meter(Peak(job.device), emit)
    decoder = load_decoder(job, emit)
    trained = _train(folder, job, decoder, rows, policy, meter)
    took = _record(folder, planned, meter, emit)
    if trained.tokens_per_second:  # else it was trained before, and that stands there
        folder.update(facts={"training": asdict(trained)})
    evaluation = None
    if not trained.interrupted:
        _export(folder, job, decoder)
        if job.config.evaluate:
            decoder.release()  # what the training keeps from row to row, the evaluation can use
            evaluation = _evaluate(folder, job, decoder, None, emit)
    folder.update(status="interrupted" if trained.interrupted else "finished")
    return RunResult(
        run=str(folder.path),
        steps=trained.steps,
        tokens=trained.tokens,
        tokens_kept=rows.summary.tokens_kept,
        tokens_per_second=trained.tokens_per_second,
        interrupted=trained.interrupted,
        adapter=None if trained.interrupted else str(folder.adapter),
        evaluation=evaluation,
        outcome=took,
    )


def _plan(
    folder: RunFolder, job: Job, rows: RowsSummary, policy: Policy, emit: Emit
) -> tuple[Plan, Target] | None:
    """What the whole run should need here, said and written down; None if nobody knows."""
    target = target_here(job.machine, job.precision, emit)
    if target is None:
        emit(Notice(message=policy.reason))
        return None
    steps = _steps(job, rows.rows)
    made = forecast(
        job.config, job.shape, target, model=job.base.name, precision=job.precision,
        steps=steps, rows=rows,
    )  # fmt: skip
    emit(Notice(message=plan_line(made, target)))
    folder.update(facts={"plan": plan_facts(made)})
    return made, target


def _record(
    folder: RunFolder, planned: tuple[Plan, Target] | None, meter: Meter, emit: Emit
) -> Outcome | None:
    """Predicted against measured, for the run and for later plans on this machine."""
    from repotune.machine import record_outcome

    took = planned and outcome(*planned, meter)
    if took is not None:
        folder.update(facts={"outcome": asdict(took)})
        record_outcome(took, emit=emit)
    return took


def _open_tuned(folder: RunFolder, emit: Emit) -> tuple[Job, Decoder]:
    """The base model with the run's adapter. Raises RunError if the run has none yet."""
    from repotune.export import load_adapter

    if not folder.adapter.exists():
        raise RunError(
            f"{folder.path} has no adapter yet: finish it with "
            f"`repotune tune --resume {folder.path}`."
        )
    job = settle(folder.state(), emit)
    decoder = load_decoder(job, emit)
    load_adapter(folder.adapter, decoder.lora_state(), lora=job.lora)
    decoder.refresh()
    return job, decoder


def _prepare_rows(folder: RunFolder, job: Job, emit: Emit) -> RowStore:
    """Corpus and rows; both are built once, whole, and found again by a resumed run."""
    from repotune.corpus import build_corpus, read_documents
    from repotune.tokens import RowStore, build_rows

    config = job.config
    if not folder.corpus.exists():
        build_corpus(
            job.tree,
            folder.corpus,
            heldout_share=config.heldout_share,
            seed=config.seed,
            keep_vendored=config.keep_vendored,
            exclude=(folder.path,),
            emit=emit,
        )
    if not folder.tokens.exists():
        build_rows(
            read_documents(folder.corpus, "train"),
            job.tokenizer,
            folder.tokens,
            max_seq_length=config.max_seq_length,
            fim_rate=config.fim_rate,
            seed=config.seed,
            emit=emit,
        )
    return RowStore(folder.tokens)


def _train(
    folder: RunFolder, job: Job, decoder: Decoder, rows: RowStore, policy: Policy, emit: Emit
) -> TrainResult:
    from repotune.training import LossScale, latest, load, log_metrics, stop_on_signals, train

    config = job.config
    fingerprint = training_fingerprint(job, rows.summary.fingerprint)
    checkpoint = latest(folder.checkpoints, emit)
    resume_from = None
    if checkpoint is not None:
        resume_from = load(checkpoint, like=decoder.lora_state(), fingerprint=fingerprint)
    reached = resume_from.step if resume_from else 0
    with (
        log_metrics(folder.metrics, folder.tensorboard, reached=reached) as log,
        stop_on_signals() as should_stop,
    ):

        def emit_and_log(event: Event) -> None:
            log(event)
            emit(event)

        return train(
            decoder,
            rows,
            batch_size=config.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            rows_per_pass=job.rows_per_pass,
            steps=_steps(job, len(rows)),
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_scheduler_type,
            warmup_ratio=config.warmup_ratio,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            policy=policy,
            dropout=config.lora_dropout > 0,
            loss_scale=LossScale() if job.precision == "fp16" else None,
            save_steps=config.save_steps,
            checkpoints=folder.checkpoints,
            fingerprint=fingerprint,
            resume_from=resume_from,
            emit=emit_and_log,
            should_stop=should_stop,
        )


def _steps(job: Job, rows: int) -> int:
    from repotune.training import total_steps

    return total_steps(
        rows,
        batch_size=job.config.batch_size,
        gradient_accumulation_steps=job.config.gradient_accumulation_steps,
        num_train_epochs=job.config.num_train_epochs,
        max_steps=job.config.max_steps,
    )


def _export(folder: RunFolder, job: Job, decoder: Decoder) -> None:
    from repotune.export import export_adapter

    export_adapter(folder.adapter, decoder.lora_state(), lora=job.lora, base=job.base)


def _evaluate(
    folder: RunFolder, job: Job, decoder: Decoder, max_tokens: int | None, emit: Emit
) -> Evaluation:
    """Score the held-out files, and write what came out."""
    from repotune.corpus import read_documents
    from repotune.evaluation import evaluate as compare
    from repotune.evaluation import write_evaluation

    on_gpu = job.machine.gpu is not None
    default = None if on_gpu else CPU_EVAL_TOKENS
    documents = read_documents(folder.corpus, "heldout")
    if not documents:
        raise RunError(
            f"{folder.path} held no files out, so there is nothing to compare on: "
            "start a new run with heldout_share above 0."
        )
    evaluation = compare(
        decoder,
        job.tokenizer,
        documents,
        training=read_documents(folder.corpus, "train"),
        max_seq_length=job.config.max_seq_length,
        max_tokens=max_tokens or job.config.eval_max_tokens or default,
        max_cursors=GPU_CURSORS if on_gpu else CPU_CURSORS,
        max_line_tokens=MAX_LINE_TOKENS,
        max_prompt_tokens=GPU_PROMPT_TOKENS if on_gpu else CPU_PROMPT_TOKENS,
        seed=job.config.seed,
        emit=emit,
    )
    write_evaluation(folder.evaluation, evaluation)
    base, tuned = evaluation.base_bits_per_byte, evaluation.tuned_bits_per_byte
    folder.update(facts={"heldout_bits_per_byte": {"base": base, "tuned": tuned}})
    return evaluation
