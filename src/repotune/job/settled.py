"""A run's configuration, settled, and what follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repotune.config import FineTuningConfig
from repotune.records import LoraSpec, Machine, ModelRef, Precision, Shape

if TYPE_CHECKING:
    from repotune.model import WeightSource
    from repotune.planning import Setup
    from repotune.tokens import CodeTokenizer

NOT_IN_FINGERPRINT = (
    "output_dir", "save_steps", "evaluate", "eval_max_tokens", "offline", "model", "rehearsal",
    "eval_steps", "early_stopping_patience", "allow_shorter_rows", "gradient_checkpointing",
    "batch_size", "gradient_accumulation_steps", "fim_tokens", "memorisation_canaries",
)  # fmt: skip
"""Settings that change no step: a run may be resumed where these differ. Of the batch's two only
the product decides, which has a place of its own; fim_tokens and memorisation_canaries show in the
rows."""


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
        from repotune.tokens import TAUGHT_ORDER

        return {
            "model": self.base.name,
            "revision": self.base.revision,
            "base_path": self.base.path,
            "base_digest": self.base.digest,
            "tokenizer": self.tokenizer.fingerprint,
            "fim_order": TAUGHT_ORDER if self.tokenizer.added_ids else None,
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
