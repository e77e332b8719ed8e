"""From what a run was asked for to its job: model, machine, precision, tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repotune.config import FineTuningConfig
from repotune.errors import ModelError, UsageError
from repotune.events import Emit, Event, Notice
from repotune.job.settled import Job
from repotune.records import LoraSpec, ModelRef, Shape
from repotune.runs import RunState

if TYPE_CHECKING:
    from repotune.tokens import CodeTokenizer

CPU_MODEL = "starter"
GPU_MODEL = "codellama/CodeLlama-7b-hf"
ROWS_MULTIPLE = 8
"""Of an embedding: 16 bytes of 16-bit logits."""
SLOW_FP16 = "A processor emulates fp16, up to a hundred times slower than fp32"


def settle(state: RunState, emit: Emit, *, uses_gpu: bool = True) -> Job:
    """Decide what the configuration leaves open, or find again what was decided before.

    Not ``uses_gpu``: the work is the processor's, so a GPU that is busy or broken is no matter.
    Raises TrainingError or DoesNotFit for a GPU that cannot be used, ModelError and UsageError for
    what was asked for.
    """
    from repotune.kernels import with_triton_tried
    from repotune.machine import check_gpu, precision_here, prepare_gpu, probe
    from repotune.model import open_weights, read_shape
    from repotune.tokens import load_tokenizer

    config = FineTuningConfig(**state.config)
    if uses_gpu:
        check_gpu()
    machine = probe(uses_gpu=uses_gpu)
    if machine.gpu:
        prepare_gpu()
        machine = with_triton_tried(machine)
    precision = precision_here(state.facts.get("precision", config.precision), machine)
    if config.use_4bit and not machine.gpu:
        emit(Notice(message=f"use_4bit needs a GPU, and there is none: using {precision}."))
    if precision == "fp16" and not machine.gpu:
        emit(
            Notice(
                message=f"{SLOW_FP16}, and how long it will take is not known: "
                f'precision = "auto" takes {precision_here("auto", machine)} here.'
            )
        )
    base = _find_base(state, config, GPU_MODEL if machine.gpu else CPU_MODEL, emit)
    shape = read_shape(base)
    tokenizer = load_tokenizer(Path(base.path), add_fim=config.fim_tokens == "add")
    if state.facts.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise ModelError(
            f"The tokenizer of the model at {base.path} is not the one that this run was started "
            "with: put that one back, or start a new run."
        )
    _refuse_another_order(state, tokenizer)
    if config.fim_tokens == "add" and not tokenizer.added_ids:
        emit(
            Notice(
                message=f"{base.name} has its own tokens for fill in the middle: none are added."
            )
        )
    open_weights(base)  # names, shapes and sizes are checked before anything is done in vain
    _refuse_unfit(base, shape, tokenizer, config.max_seq_length)
    return Job(
        config=config,
        tree=Path(state.tree),
        machine=machine,
        base=base,
        shape=_with_room(shape, tokenizer),
        tokenizer=tokenizer,
        lora=LoraSpec(
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.target_modules,
            trainable_token_indices=tokenizer.added_ids,
        ),
        precision=precision,
    )


def _refuse_another_order(state: RunState, tokenizer: CodeTokenizer) -> None:
    """Raise ModelError for a model that was taught to fill in the middle in another order."""
    from repotune.tokens import TAUGHT_ORDER

    was_begun = "base_digest" in state.facts
    if was_begun and tokenizer.added_ids and state.facts.get("fim_order") != TAUGHT_ORDER:
        raise ModelError(
            "This run taught its model to fill in the middle in an order that this version no "
            "longer asks in: start a new run."
        )


def _refuse_unfit(
    base: ModelRef, shape: Shape, tokenizer: CodeTokenizer, max_seq_length: int
) -> None:
    """Raise UsageError for rows that the model cannot read, ModelError for another's tokenizer."""
    if max_seq_length > shape.max_position_embeddings:
        raise UsageError(
            f"max_seq_length = {max_seq_length:,} is more than the "
            f"{shape.max_position_embeddings:,} positions that {base.name} knows: lower it."
        )
    own_tokens = tokenizer.vocab_size - len(tokenizer.added_ids)
    if own_tokens > shape.vocab_size:
        raise ModelError(
            f"{base.path} has a tokenizer of {own_tokens:,} tokens and weights for "
            f"{shape.vocab_size:,}: they are of different models, so download the model again."
        )


def _with_room(shape: Shape, tokenizer: CodeTokenizer) -> Shape:
    """With an embedding for the tokens that are added, too; its rows stay a multiple of eight,
    since matmuls are slow on others."""
    if tokenizer.vocab_size <= shape.vocab_size:
        return shape
    return replace(shape, vocab_size=-(-tokenizer.vocab_size // ROWS_MULTIPLE) * ROWS_MULTIPLE)


def without_notices(emit: Emit) -> Emit:
    """For ``settle`` after a run: what it remarks is about how a training would run here."""

    def pass_on(event: Event) -> None:
        if not isinstance(event, Notice):
            emit(event)

    return pass_on


def _find_base(state: RunState, config: FineTuningConfig, default: str, emit: Emit) -> ModelRef:
    """The base model; the one that the run was started with, if it was started before."""
    from repotune.model import resolve_model

    facts = state.facts
    if "base_path" in facts and facts["revision"] is None and facts["model"] != CPU_MODEL:
        path = Path(facts["base_path"])
        if not path.exists():
            raise ModelError(
                f"The base model of this run is gone from {path}: move it back there, or put a "
                "link there to where it is now."
            )
    base = resolve_model(
        facts.get("model") or config.model or default,
        revision=facts.get("revision") or config.revision,
        # What was downloaded before needs no hub.
        offline=config.offline or ("base_path" in facts and Path(facts["base_path"]).exists()),
        cache=None,
        emit=emit,
    )
    if not base.digest.startswith(facts.get("base_digest", "")):  # an older one is its beginning
        raise ModelError(
            f"The model at {base.path} is not the one that this run was started with: put that one "
            "back, or start a new run."
        )
    return base
