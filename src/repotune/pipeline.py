"""The whole way: a source tree in, an adapter and its proof out.

This is the only file that knows every room. Read ``tune`` and then ``_work`` from top to bottom:
settle what "auto" means here, find the model, read the tree, make rows, train, export, evaluate.
Torch and what needs it are imported inside the verbs, once the arguments are known to be good.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from repotune.config import FineTuningConfig
from repotune.errors import CorpusError, ModelError
from repotune.events import Emit, Notice, ignore
from repotune.records import (
    Evaluation,
    LoraSpec,
    Machine,
    ModelRef,
    Policy,
    RunResult,
    Shape,
    TrainResult,
)
from repotune.runs import RunFolder, RunInfo, create_run, default_run_path, find_run, list_runs

if TYPE_CHECKING:
    from repotune.model import Decoder
    from repotune.tokens import CodeTokenizer, RowStore

CPU_MODEL = "starter"
GPU_MODEL = "codellama/CodeLlama-7b-hf"
CPU_EVAL_TOKENS = 30_000
CPU_CURSORS, GPU_CURSORS = 20, 100
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

    ``interrupted`` in the result says that Ctrl-C or SIGTERM ended it early, at a saved step.
    Raises RepotuneError (see ``errors.py``) for whatever the user can mend.
    """
    config = config or FineTuningConfig()
    root = Path(tree)
    if not root.exists():
        raise CorpusError(f"{tree} does not exist: give the path of a folder with source code.")
    path = config.output_dir or default_run_path(root, Path.cwd(), datetime.now())
    folder = create_run(
        path,
        tree=root,
        model=config.model or "",
        config=config.model_dump(mode="json"),
        config_toml=config.to_toml(),
    )
    return _work(folder, emit)


def resume(run: str | Path, *, emit: Emit = ignore) -> RunResult:
    """Go on with a run from its newest whole checkpoint, or from step 0 if it has none."""
    return _work(find_run(run, Path.cwd()), emit)


def runs(folder: Path) -> list[RunInfo]:
    """The runs in ``folder``, oldest first."""
    return list_runs(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A run's configuration with everything that "auto" left open settled for this machine."""

    config: FineTuningConfig
    tree: Path
    machine: Machine
    base: ModelRef
    shape: Shape
    tokenizer: CodeTokenizer
    lora: LoraSpec
    precision: Literal["bf16", "fp32"]

    @property
    def device(self) -> str:
        """PyTorch's name of the device that the work runs on."""
        return "cuda" if self.machine.gpu else "cpu"


def _work(folder: RunFolder, emit: Emit) -> RunResult:
    with folder.locked():
        folder.update(status="running")
        try:
            return _tune(folder, emit)
        except BaseException:
            folder.update(status="failed")
            raise


def _tune(folder: RunFolder, emit: Emit) -> RunResult:
    job = _settle(folder, emit)
    policy = _choose_policy(job)  # before the tree is read: what does not fit is said at once
    emit(Notice(message=policy.reason))
    rows, tokens_kept = _prepare_rows(folder, job, emit)
    decoder = _load_decoder(job)
    trained = _train(folder, job, decoder, rows, policy, emit)
    evaluation = None
    if not trained.interrupted:
        _export(folder, job, decoder)
        if job.config.evaluate:
            evaluation = _evaluate(folder, job, decoder, job.config.eval_max_tokens, emit)
    folder.update(
        status="interrupted" if trained.interrupted else "finished",
        facts=_facts(trained, evaluation),
    )
    return RunResult(
        run=str(folder.path),
        steps=trained.steps,
        tokens=trained.tokens,
        tokens_kept=tokens_kept,
        tokens_per_second=trained.tokens_per_second,
        interrupted=trained.interrupted,
        adapter=None if trained.interrupted else str(folder.adapter),
        evaluation=evaluation,
    )


def _settle(folder: RunFolder, emit: Emit) -> _Job:
    """Decide what the configuration leaves open, and record it in the run."""
    from repotune.machine import probe
    from repotune.model import read_shape, resolve_model
    from repotune.tokens import load_tokenizer

    state = folder.state()
    config = FineTuningConfig(**state.config)
    machine = probe()
    if config.use_4bit:
        reason = "the 4-bit engine is not built yet" if machine.gpu else "there is no GPU"
        emit(Notice(message=f"use_4bit needs the GPU engine, and {reason}: using bf16 or fp32."))
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if machine.bf16 else "fp32"
    name = state.facts.get("model") or config.model or (GPU_MODEL if machine.gpu else CPU_MODEL)
    base = resolve_model(
        name,
        revision=state.facts.get("revision") or config.revision,
        offline=config.offline,
        cache=None,
        emit=emit,
    )
    if state.facts.get("base_digest", base.digest) != base.digest:
        raise ModelError(
            f"The model at {base.path} is not the one that this run was started with: put that one "
            "back, or start a new run."
        )
    folder.update(
        facts={
            "model": base.name,
            "revision": base.revision,
            "base_path": base.path,
            "base_digest": base.digest,
            "precision": precision,
            "machine": asdict(machine),
        }
    )
    return _Job(
        config=config,
        tree=Path(state.tree),
        machine=machine,
        base=base,
        shape=read_shape(base),
        tokenizer=load_tokenizer(Path(base.path)),
        lora=LoraSpec(
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.target_modules,
        ),
        precision=precision,
    )


def _choose_policy(job: _Job) -> Policy:
    from repotune.planning import choose_policy

    machine = job.machine
    return choose_policy(
        job.shape,
        job.lora,
        tokens=job.config.max_seq_length,
        itemsize=2 if job.precision == "bf16" else 4,
        free_bytes=machine.gpu_free_bytes if machine.gpu else machine.ram_free_bytes,
        gradient_checkpointing=job.config.gradient_checkpointing,
    )


def _prepare_rows(folder: RunFolder, job: _Job, emit: Emit) -> tuple[RowStore, float]:
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
    rows = RowStore(folder.tokens)
    return rows, rows.summary.tokens_kept


def _load_decoder(job: _Job) -> Decoder:
    import torch

    from repotune.model import Decoder, open_weights

    return Decoder(
        open_weights(job.base),
        lora=job.lora,
        dtype=torch.bfloat16 if job.precision == "bf16" else torch.float32,
        device=job.device,
        seed=job.config.seed,
    )


def _facts(trained: TrainResult, evaluation: Evaluation | None) -> dict[str, object]:
    facts: dict[str, object] = {"training": asdict(trained)}
    if evaluation is not None:
        facts["heldout_bits_per_byte"] = {
            "base": evaluation.base_bits_per_byte,
            "tuned": evaluation.tuned_bits_per_byte,
        }
    return facts
