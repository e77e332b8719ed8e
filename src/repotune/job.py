"""A run's job: its configuration with everything that it leaves open settled for this machine.

Settled once, written into the run, and found again when the run is resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repotune.config import FineTuningConfig
from repotune.errors import DoesNotFit, ModelError, UsageError
from repotune.events import Emit, Event, Notice
from repotune.records import (
    LayerPolicy,
    LoraSpec,
    Machine,
    ModelRef,
    Passes,
    Policy,
    Precision,
    Shape,
)
from repotune.runs import RunState

if TYPE_CHECKING:
    from repotune.model import Decoder, WeightSource
    from repotune.planning import Setup
    from repotune.tokens import CodeTokenizer

CPU_MODEL = "starter"
GPU_MODEL = "codellama/CodeLlama-7b-hf"
ROWS_MULTIPLE = 8
"""Of an embedding: 16 bytes of 16-bit logits."""
SLOW_FP16 = "A processor emulates fp16, up to a hundred times slower than fp32"
NOT_IN_FINGERPRINT = (
    "output_dir", "save_steps", "evaluate", "eval_max_tokens", "offline", "model", "rehearsal",
    "eval_steps", "early_stopping_patience", "allow_shorter_rows", "gradient_checkpointing",
    "batch_size", "gradient_accumulation_steps", "fim_tokens", "memorisation_canaries",
)  # fmt: skip
"""Settings that change no step: a run may be resumed where these differ. Of the batch's two only
the product decides, which has a place of its own; fim_tokens and memorisation_canaries show in the
rows."""
FINER_BUDGET = 0.99
"""Of the memory that the planner was asked about before, until it has nothing more to offer."""
WORTH_A_TRY = 0.8
"""Less of what was kept is worth another try of the step; a failing one costs most of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run's configuration with everything that "auto" left open settled for this machine."""

    config: FineTuningConfig
    tree: Path
    machine: Machine
    base: ModelRef
    shape: Shape
    tokenizer: CodeTokenizer
    lora: LoraSpec
    precision: Precision

    @property
    def add_fim(self) -> bool:
        """Whether a model without tokens for fill in the middle is taught some."""
        return self.config.fim_tokens == "add"

    @property
    def use_4bit(self) -> bool:
        """Whether the base weights are kept in 4 bits."""
        return self.config.use_4bit and self.machine.gpu is not None

    def weights(self) -> WeightSource:
        """The base model's, with rows for the tokens that it is taught. Raises ModelError."""
        from repotune.model import open_weights

        return open_weights(self.base, vocab_size=self.shape.vocab_size)

    @property
    def facts(self) -> dict[str, Any]:
        """What the run records of it, and finds again when it is resumed."""
        return {
            "model": self.base.name,
            "revision": self.base.revision,
            "base_path": self.base.path,
            "base_digest": self.base.digest,
            "tokenizer": self.tokenizer.fingerprint,
            "precision": self.precision,
            "machine": asdict(self.machine),
        }

    def is_where(self, facts: Mapping[str, Any]) -> bool:
        """Whether a run's ``facts`` were recorded on this machine's GPU and processor."""
        before = facts.get("machine", {})
        return (before.get("gpu"), before.get("cpu")) == (self.machine.gpu, self.machine.cpu)

    @property
    def rows_per_pass(self) -> int:
        """A GPU needs all rows of a batch at once to be busy; a CPU is as fast with one."""
        return self.config.batch_size if self.machine.gpu else 1

    @property
    def setup(self) -> Setup:
        """What the memory model is asked about: one full pass through the layers."""
        return self.setup_of(self.rows_per_pass * self.config.max_seq_length)

    def setup_of(self, tokens: int) -> Setup:
        """The same with ``tokens`` of a pass."""
        from repotune.planning import Setup, packed_documents

        rows = max(1, tokens // self.config.max_seq_length)
        return Setup(
            shape=self.shape,
            lora=self.lora,
            tokens=tokens,
            itemsize=4 if self.precision == "fp32" else 2,
            device=self.device,
            use_4bit=self.use_4bit,
            documents=packed_documents(tokens, rows),
            longest=self.config.max_seq_length,
            plain=not (self.machine.has_fused_kernels and self.precision != "fp32"),
            deterministic=self.config.deterministic,
        )

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """PyTorch's name of the device that the work runs on."""
        return "cuda" if self.machine.gpu else "cpu"


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


def first_passes(job: Job, facts: Mapping[str, Any]) -> Passes:
    """How a run begins: as planned, or as memory allowed when it ran here before.

    ``facts`` are those that the run had recorded, see ``healed_passes``. Raises DoesNotFit, before
    anything is loaded.
    """
    healed = healed_passes(job, facts)
    if healed is None:
        return Passes(policy=plan_policy(job), rows=job.rows_per_pass)
    tokens = healed.rows * job.config.max_seq_length // healed.cuts
    planned = plan_policy(job, tokens)  # less may be free than there was
    if _kept_bytes(job, tokens, planned) < _kept_bytes(job, tokens, healed.policy):
        return replace(healed, policy=planned)
    return healed


def healed_passes(job: Job, facts: Mapping[str, Any]) -> Passes | None:
    """How the run went on when memory had run out; None if it never did on this machine."""
    found = facts.get("passes")
    if found is None or not job.is_where(facts):
        return None
    policy = found["policy"]
    layers = tuple(LayerPolicy(**layer) for layer in policy["layers"])
    return Passes(**{**found, "policy": Policy(**{**policy, "layers": layers})})


def plan_policy(job: Job, tokens: int | None = None) -> Policy:
    """What each layer does with its activations; ``tokens`` of a pass, None: all that are usual.

    Raises DoesNotFit, before anything is loaded.
    """
    from repotune.machine import who_holds_the_gpu

    machine = job.machine
    free = machine.gpu_free_bytes if machine.gpu else machine.ram_free_bytes
    try:
        return _choose(job, tokens or job.rows_per_pass * job.config.max_seq_length, free)
    except DoesNotFit as error:
        others = who_holds_the_gpu() if machine.gpu else ""
        raise DoesNotFit(" ".join(filter(None, (str(error), others)))) from None


def lower_policy(job: Job, tokens: int, than: Policy | None) -> Policy | None:
    """The best policy for ``tokens`` a pass that keeps less on the device than ``than`` does.

    ``than`` None: the best that the memory there is allows. None if there is no such policy.
    """
    from repotune.machine import gpu_room

    machine = job.machine
    free = min(machine.gpu_free_bytes, gpu_room()) if machine.gpu else machine.ram_free_bytes
    before = math.inf if than is None else _kept_bytes(job, tokens, than)
    best: Policy | None = None
    while free:
        try:
            policy = _choose(job, tokens, free)
        except DoesNotFit:
            break
        kept = _kept_bytes(job, tokens, policy)
        if kept < before:
            best = policy
            if kept < WORTH_A_TRY * before:
                break
        free = int(free * FINER_BUDGET)
    return best


def _choose(job: Job, tokens: int, free_bytes: int) -> Policy:
    from repotune.planning import choose_policy

    return choose_policy(
        job.setup_of(tokens),
        free_bytes=free_bytes,
        gradient_checkpointing=job.config.gradient_checkpointing,
        host_free_bytes=job.machine.ram_free_bytes if job.machine.gpu else 0,
    )


def _kept_bytes(job: Job, tokens: int, policy: Policy) -> int:
    """What another policy may have: saved tensors, 16-bit copies, the optimizer's moments."""
    from repotune.planning import expanded_bytes, moments_bytes, saved_layer_bytes

    setup = job.setup_of(tokens)
    moments = 0 if policy.optimizer_offloaded else moments_bytes(setup)
    return moments + expanded_bytes(setup, policy) + sum(
        saved_layer_bytes(
            job.shape, job.lora, layer.saving, tokens=tokens, itemsize=setup.itemsize,
            is_fused=setup.is_fused,
        )
        for layer in policy.layers
        if not layer.offloaded
    )  # fmt: skip


def load_decoder(job: Job, emit: Emit, *, keep_quantised: bool = True) -> Decoder:
    """The base model with a fresh adapter, on the job's device.

    ``keep_quantised``: 4-bit weights that are made are kept on disk for later runs.
    """
    import torch

    from repotune.kernels import fastest_ops
    from repotune.machine import cap_gpu
    from repotune.model import Decoder, QuantisedLayers

    if job.machine.gpu:
        cap_gpu()
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    dtype = dtypes[job.precision]
    ops, note = fastest_ops(torch.device(job.device), dtype, deterministic=job.config.deterministic)
    if note is not None:
        emit(Notice(message=note))
    quantised = quantised_folder(job.base, job.precision)
    return Decoder(
        job.weights(),
        lora=job.lora,
        dtype=dtype,
        device=job.device,
        seed=job.config.seed,
        ops=ops,
        use_4bit=job.use_4bit,
        quantised=QuantisedLayers(quantised, emit, keeps=keep_quantised),
    )


def quantised_folder(base: ModelRef, precision: str) -> Path:
    """Where the 4-bit weights made from ``base`` in ``precision`` are kept for later runs."""
    from repotune.machine import cache_folder
    from repotune.model import QuantisedLayers, weights_id

    return cache_folder() / "nf4" / QuantisedLayers.folder_name(weights_id(base), precision)


def training_fingerprint(job: Job, rows: str) -> str:
    """Of all that decides the next step beside the weights: settings, rows, base, precision."""
    config = job.config
    decided = {
        "settings": config.model_dump(mode="json", exclude=set(NOT_IN_FINGERPRINT)),
        "global_batch": config.batch_size * config.gradient_accumulation_steps,
        "rows": rows,
        "base": job.base.digest,
        "at": job.precision,
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
