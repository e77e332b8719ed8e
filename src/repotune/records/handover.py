"""What is handed over to other programs, and the proof that they compute the same from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

ExportFormat: TypeAlias = Literal["peft", "merged", "gguf", "ollama", "vllm"]
Quantisation: TypeAlias = Literal["f16", "q8_0", "q4_k_m"]
Engine: TypeAlias = Literal["llama.cpp", "vllm"]
"""Who computes what is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What another program computed from an export, beside what our decoder computes."""

    by: str
    """The program and its version."""
    positions: int
    """Places in fixed pieces of code at which the next token was compared."""
    drift: float
    """Relative L2 distance of the logits; by llama.cpp, of the log-probabilities of its most
    likely tokens."""
    drift_bound: float
    """More than this refuses the hand-over."""
    same_token: float
    """Share of the positions at which both find the same token most likely."""
    nats: float
    """Mean loss per position by our decoder with the adapter."""
    their_nats: float
    loss_bound: float
    """Theirs may be higher or lower by this share of ours."""
    adapter_share: float | None
    """How much of what the adapter changes in the logits the export has: 1 all of it, 0 nothing, as
    if it were the base. None where that is too little to be seen through the drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """A folder that is ready for another program."""

    format: ExportFormat
    folder: str
    files: dict[str, int]
    """Name -> bytes."""
    proof: Proof | None
    """None where the other side could not be asked; ``unchecked`` says why."""
    unchecked: tuple[str, ...]
    """Sentences: what was not checked, and how it can be."""
    command: str
    """What to type, or to write in Python, to use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A real request through the door, and its answer."""

    model: str
    prefix: str
    suffix: str | None
    """None: the model has no fill in the middle, so it was asked to go on after the prefix."""
    answer: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that is ready."""

    address: str
    token: str
    models: tuple[str, ...]
    files: dict[str, str]
    """Model -> its GGUF file, or its folder for vLLM."""
    proofs: dict[str, Proof]
    """Model -> what was computed from it, when it was made, beside our decoder."""
    unchecked: tuple[str, ...]
    """Sentences: why a file was not compared."""
    context: int
    """Tokens at most of a prompt and its answer together."""
    trials: tuple[Trial, ...]
    settings: dict[str, str]
    """File -> text, for editors. Empty for a model without fill in the middle, of which an editor
    would get nothing."""
