"""The whole way: a source tree in, an adapter and its proof out.

This is the only file that knows every room. Read ``tune``, then ``_settle`` and ``_tune`` from top
to bottom: settle what "auto" means here, find the model, read the tree, make rows, train, export,
evaluate.
Torch and what needs it are imported inside the verbs, once the arguments are known to be good.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repotune.config import FineTuningConfig
from repotune.errors import CorpusError, Interrupted, RepotuneError, RunError, UsageError
from repotune.events import Emit, Notice, ignore
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
    first_passes,
    healed_passes,
    load_decoder,
    settle,
)
from repotune.records import (
    Completion,
    Evaluation,
    Outcome,
    Passes,
    Plan,
    Policy,
    RowsSummary,
    RunResult,
)
from repotune.runs import (
    RunFolder,
    RunInfo,
    create_run,
    default_run_path,
    find_run,
    list_runs,
    refuse_taken,
    unfinished_like,
)
from repotune.signals import interrupted_by_signals

if TYPE_CHECKING:
    from repotune.planning import Target


EDITOR_TOKENS = 4096
"""Of a completion's prompt and answer: the context of `repotune serve`, where the model has it."""


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
    if config.output_dir is None:
        _offer_unfinished(root, path.parent, config)
    was_there = path.exists()
    folder = create_run(
        path,
        tree=root,
        model=config.model or "",
        config=config.model_dump(mode="json"),
        config_toml=_reusable(config),
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


def _reusable(config: FineTuningConfig) -> str:
    """As TOML without its own place, so that it serves for another run."""
    return config.merged({"output_dir": None}).to_toml()


def _offer_unfinished(root: Path, runs_folder: Path, config: FineTuningConfig) -> None:
    """Raise RunError if the same was begun before and not ended: that may be worth a night."""
    info = unfinished_like(runs_folder, root, config.model_dump(mode="json"))
    if info is not None:
        raise RunError(
            f"The same run was begun before and is not finished: go on with it by "
            f"`repotune tune --resume {info.path}`, or begin anew in a folder that you name with "
            "-o."
        )


def resume(
    run: str | Path, *, batch_size: int | None = None,
    gradient_accumulation_steps: int | None = None,
    gradient_checkpointing: bool | None = None, emit: Emit = ignore,
) -> RunResult:  # fmt: skip
    """Go on with a run from its newest whole checkpoint, or from step 0 if it has none.

    ``batch_size`` and ``gradient_accumulation_steps`` may be others than before as long as their
    product, the global batch, stays, and so may ``gradient_checkpointing``: memory and time change,
    the result does not. Of a finished run whose adapter is damaged or gone, that is written again.
    Raises RunError if there is no such run, or it is finished and whole, UsageError for another
    global batch.
    """
    folder = find_run(run, Path.cwd())
    if folder.state().status == "finished" and folder.is_whole(folder.adapter):
        raise RunError(
            f"{folder.path} is finished, and there is nothing to go on with: "
            f"see it again with `repotune evaluate {folder.path}`, or start a new run."
        )
    changes = {
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "gradient_checkpointing": gradient_checkpointing,
    }
    old = FineTuningConfig(**folder.state().config)
    if folder.config_text() != _reusable(old):
        emit(
            Notice(
                message=f"{folder.config_toml} was edited, and a run goes on with the settings it "
                "began with, so that is not heeded: for other settings start a new run with "
                "--config."
            )
        )
    config = _changed(old, {name: one for name, one in changes.items() if one is not None})
    return _work(folder, emit, config)


def _changed(old: FineTuningConfig, changes: dict[str, int]) -> FineTuningConfig | None:
    """The run's configuration with ``changes``; None without any."""
    if not changes:
        return None
    new = old.merged(changes)
    before = old.batch_size * old.gradient_accumulation_steps
    after = new.batch_size * new.gradient_accumulation_steps
    if before != after:
        raise UsageError(
            f"batch_size × gradient_accumulation_steps would be {after}, and this run has {before} "
            "rows a step: give both, with that product, or leave both out."
        )
    return new


def evaluate(
    run: str | Path, *, step: int | None = None, eval_max_tokens: int | None = None,
    tasks: bool = True, emit: Emit = ignore,
) -> Evaluation:  # fmt: skip
    """Compare base and tuned on a run's held-out files, and write ``evaluation.json``.

    ``step`` says that the kept checkpoint of that step is the tuned one; then nothing is written,
    since that file and the report are about the adapter. ``eval_max_tokens`` goes before the run's
    own setting. ``tasks``: also let both solve HumanEval, whose solutions run in a sandbox. Raises
    RunError if the run has no such adapter, held nothing out, or its corpus is damaged.
    """
    from repotune.stages import compare, open_tuned

    folder = find_run(run, Path.cwd())
    with folder.locked():
        folder.refuse_damaged(folder.corpus, otherwise="start a new run")
        job, decoder = open_tuned(folder, emit, step)
        return compare(
            folder, job, decoder, eval_max_tokens, tasks=tasks, keep=step is None, emit=emit
        )


def complete(
    run: str | Path, location: Location, *, suffix: str | None = None, step: int | None = None,
    max_new_tokens: int = 48, emit: Emit = ignore,
) -> Completion:  # fmt: skip
    """Complete the code at ``location`` by the base model and by the tuned one.

    A relative path is seen from the current folder, then from the run's tree. ``suffix`` goes in
    the place of what the file has after the cursor, ``step`` says that the kept checkpoint of that
    step is the tuned one. Raises UsageError if there is no such place, or a suffix for a model that
    cannot fill in the middle; RunError if the run has no such adapter.
    """
    from repotune.corpus.decode import decode
    from repotune.evaluation import complete_at
    from repotune.stages import open_tuned

    folder = find_run(run, Path.cwd())
    path = location.path
    if not path.exists():
        path = Path(folder.state().tree) / path
    if not path.is_file():
        raise UsageError(f"There is no file {location.path}, here or in the run's tree.")
    decoded = decode(path.read_bytes())
    if decoded is None:
        raise UsageError(f"{location.path} is not text in a known encoding: give a source file.")
    job, decoder = open_tuned(folder, emit, step)
    known = job.shape.max_position_embeddings
    return complete_at(
        decoder,
        job.tokenizer,
        decoded.text,
        path=location.path.as_posix(),
        line=location.line,
        column=location.column,
        suffix=suffix,
        max_new_tokens=max_new_tokens,
        max_seq_length=min(max(EDITOR_TOKENS, job.config.max_seq_length), known),
    )


def runs(folder: Path) -> list[RunInfo]:
    """The runs in ``folder``, oldest first."""
    return list_runs(folder)


def _work(folder: RunFolder, emit: Emit, config: FineTuningConfig | None = None) -> RunResult:
    with folder.locked(), interrupted_by_signals():
        if config is not None:
            folder.configure(config.model_dump(mode="json"), _reusable(config))
            folder.update(facts={"passes": None})  # of another batch, or by another policy
        otherwise = folder.state().status  # of what is refused before anything is done
        folder.update(status="running")
        began = time.perf_counter()
        try:
            job, passes, keep_quantised = _settle(folder, emit)
            otherwise = "failed"
            return _tune(folder, job, passes, emit, began=began, keep_quantised=keep_quantised)
        except KeyboardInterrupt:
            folder.update(status="interrupted")
            raise Interrupted(
                f"Stopped; go on with `repotune tune --resume {folder.path}`."
            ) from None
        except BaseException:
            folder.update(status=otherwise)
            raise


def _settle(folder: RunFolder, emit: Emit) -> tuple[Job, Passes, bool]:
    """The job, how it begins, and whether the disk has room for weights in 4 bits."""
    from repotune.stages import check_room

    prepare(folder.state().config["max_steps"], emit)
    before = folder.state()
    job = settle(before, emit)
    passes = _first_passes(folder, job, before.facts, emit)
    return job, passes, check_room(folder, job, emit)


def _tune(
    folder: RunFolder, job: Job, passes: Passes, emit: Emit, *, began: float, keep_quantised: bool
) -> RunResult:
    from repotune import stages
    from repotune.machine import Peak

    rows = stages.prepare_rows(folder, job, emit)
    planned = _plan(folder, job, rows.summary, passes.policy, emit)
    peak = Peak(job.device)
    meter = Meter(peak, emit)
    decoder = load_decoder(job, emit, keep_quantised=keep_quantised)
    _took(folder, "start", since=began, again=True)
    folder.update(facts={"starts": folder.state().facts.get("starts", 0) + 1})
    if stages.is_worth_it(folder, job, rows, planned and planned[0]):
        began = time.perf_counter()
        passes = stages.rehearse(folder, job, decoder, rows, passes, emit)
        _took(folder, "rehearsal", since=began, again=False)
    trained = stages.train_on(folder, job, decoder, rows, passes, meter, memory=peak.since_last)
    took = _record(folder, planned, meter, emit)
    stages.record_training(folder, trained)
    evaluation = None
    if not trained.interrupted:
        stages.export(folder, job, decoder)
        if job.config.evaluate:
            decoder.release()  # what the training keeps from row to row, the evaluation can use
            began = time.perf_counter()
            evaluation = stages.compare(
                folder, job, decoder, None, tasks=False, keep=True, emit=emit
            )
            _took(folder, "evaluation", since=began, again=False)
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
        best_step=trained.best_step,
        heldout_loss=trained.heldout_loss,
        stopped_early=trained.stopped_early,
    )


def _took(folder: RunFolder, stage: str, *, since: float, again: bool) -> None:
    """Note the seconds of a stage, for the report; ``again``: a resumed run's are added."""
    before = folder.state().facts.get("took", {})
    seconds = time.perf_counter() - since + (before.get(stage, 0.0) if again else 0.0)
    folder.update(facts={"took": {**before, stage: seconds}})


def _first_passes(folder: RunFolder, job: Job, before: dict[str, Any], emit: Emit) -> Passes:
    """Before the tree is read: what does not fit is said at once."""
    folder.update(facts=job.facts)
    passes, healed = first_passes(job, before), healed_passes(job, before)
    if healed is None:
        folder.update(facts={"policy": asdict(passes.policy), "passes": None})
        return passes
    folder.update(facts={"policy": asdict(passes.policy)})
    emit(
        Notice(
            message="It goes on as it did since memory ran out: "
            f"{passes.rows} × {job.config.max_seq_length // passes.cuts:,} tokens at once, and "
            f"{passes.policy.reason}"
        )
    )
    return passes


def _plan(
    folder: RunFolder, job: Job, rows: RowsSummary, policy: Policy, emit: Emit
) -> tuple[Plan, Target] | None:
    """What the whole run should need here, said and written down; None if nobody knows, or where
    whole rows do not fit, whose parts are not planned."""
    target = target_here(job.machine, job.precision, emit)
    if target is None:
        emit(Notice(message=policy.reason))
        return None
    from repotune.stages import steps_of

    made = forecast(
        job.config, job.shape, target, model=job.base.name, precision=job.precision,
        steps=steps_of(job, rows.rows), rows=rows, fills_in=job.tokenizer.fim is not None,
    )  # fmt: skip
    emit(Notice(message=plan_line(made, target)))
    if made.policy is None:
        return None
    folder.update(facts={"plan": plan_facts(made, target)})
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
