"""The way of the data: from a file of the tree to a run's result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from repotune.records.figures import (
    Compared,
    Completion,
    Forgetting,
    GroupFigures,
    Interval,
    LineGroup,
    Memorisation,
    TaskSet,
)
from repotune.records.machine import Outcome

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Split: TypeAlias = Literal["train", "heldout"]
IGNORE = -100
"""The label of a position that carries no loss (PyTorch's ``ignore_index``)."""
LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linears of a Llama layer, in the order in which they are applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One source file that was kept, as the model will see it."""

    path: str
    """Relative to the root of the tree, with forward slashes."""
    language: str
    text: str
    """Decoded, without a byte-order mark, line ends as ``\\n``, secrets as placeholders."""
    sha256: str
    """Of the file's bytes on disk."""
    cluster: int
    """Near-duplicates share a cluster; a cluster lies in one split."""
    split: Split
    encoding: str
    licence: str | None = None
    """The SPDX identifier that the file itself names, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSummary:
    """What the walk over a tree found, kept and dropped."""

    files_seen: int
    files_kept: int
    files_train: int
    files_heldout: int
    bytes_kept: int
    """UTF-8 bytes of the kept texts."""
    dropped: dict[str, int]
    """Reason -> number of files."""
    languages: dict[str, int]
    """Language -> number of kept files."""
    secrets_replaced: dict[str, int]
    """Kind of secret -> number of places where a placeholder stands instead."""
    fingerprint: str
    """SHA-256 over what was kept, the splits and the stage's version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A random line that was put into training files, or a control that was not."""

    prefix: str
    """Its beginning: a comment with a name that only it has."""
    secret: str
    """The random rest of the line."""
    repeats: int
    """In so many places it was put; 0: a control."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Exactly ``max_seq_length`` token ids: several documents, packed."""

    input_ids: IntArray
    """[S]"""
    labels: IntArray
    """[S], already shifted: ``labels[t]`` is the token after ``input_ids[t]``, or IGNORE."""
    starts: IntArray
    """[N] ascending, ``starts[0] == 0``: where each document begins; attention never crosses one.
    Padding, if any, is the last "document" and carries no labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsSummary:
    """What the corpus became: rows of token ids on disk."""

    rows: int
    tokens: int
    """Token ids of the corpus that stand in a row (separators included, padding not)."""
    tokens_kept: float
    """Share of the corpus' tokens that reached a row."""
    fill: float
    """Share of the rows' positions that hold a token of the corpus."""
    fim_documents: int
    """Pieces rewritten as prefix, suffix, middle."""
    set_aside: dict[str, str]
    """Path -> reason, for documents that the tokenizer cannot give back byte for byte."""
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary positions are stretched; fields are named as in ``config.json``."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The architecture of a Llama-family decoder, under ``config.json``'s names."""

    model_type: Literal["llama", "mistral", "qwen2"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    """Qwen2 has a bias on q, k and v; Llama with ``attention_bias`` on o as well."""
    o_bias: bool
    mlp_bias: bool
    sliding_window: int | None = None
    """Attention reaches at most this many positions back (Mistral 7B v0.1), None: all."""

    @property
    def cached_token_bytes(self) -> int:
        """Keys and values of one token in all layers, in 16 bits."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """Which linears are adapted, and how (LoRA, arXiv 2106.09685; PEFT's names)."""

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    trainable_token_indices: tuple[int, ...] = ()
    """Neighbouring ids of tokens that the base does not know: their rows of the embedding and of
    the head are trained beside the matrices."""

    @property
    def scale(self) -> float:
        """The factor on B·A, ``alpha / r``."""
        return self.alpha / self.r


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Where a model lies on this disk, and what it is."""

    name: str
    """As the user named it: ``starter``, a hub id, or a folder."""
    revision: str | None
    """The hub's commit, or None for a local model."""
    path: str
    """A folder in Hugging Face layout, or a GGUF file."""
    digest: str
    """SHA-256 over names and sizes of the weight files and ``config.json`` or the GGUF's header,
    and one over samples of the weight files: whether the base that a run was trained on is still
    the one at ``path``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts about this computer that a run depends on."""

    platform: str
    python: str
    torch: str
    cpu: str
    cores: int
    ram_bytes: int
    ram_free_bytes: int
    gpu: str | None
    gpu_free_bytes: int
    bf16: bool
    """Whether bf16 matmuls are faster here than fp32 ones."""
    triton: bool = True
    """Whether Triton works, which the fused kernels are written in."""

    @property
    def has_fused_kernels(self) -> bool:
        """Whether a run in 16 bits gets them: GPUs have bf16 from Ampere on, as the kernels ask."""
        return self.gpu is not None and self.bf16 and self.triton


Precision: TypeAlias = Literal["bf16", "fp16", "fp32"]
"""Number format of the forward and backward pass."""

Saving: TypeAlias = Literal["all", "attention", "outputs", "input"]
"""What a layer saves for its backward, from most to least; the rest is computed again.

    all        everything but norms and the MLP's product: no matmul is computed again
    attention  not gate and up
    outputs    the layer's input, attention's output, the residual after it: not q, k and v either
    input      only the layer's input
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPolicy:
    """What happens to one layer's activations between forward and backward, and to its weights."""

    saving: Saving
    offloaded: bool = False
    """Whether they wait in host memory meanwhile."""
    expanded: bool = False
    """Whether 4-bit weights lie in device memory in 16 bits too, instead of for each use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is done with each layer, and with the optimizer."""

    layers: tuple[LayerPolicy, ...]
    """One entry per layer."""
    reason: str
    """One sentence for the user."""
    optimizer_offloaded: bool = False
    """Whether the moments of AdamW wait in host memory between steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How a global batch goes through the model; only memory and time depend on it."""

    policy: Policy
    rows: int
    """At once."""
    cuts: int = 1
    """Each row is cut into so many."""


Ruling: TypeAlias = Literal["better", "no_gain", "worse", "worse_lines", "forgets", "too_few_files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether the adapter should be used, and why."""

    ship: bool
    ruling: Ruling
    worse_on: tuple[str, ...]
    """Languages on which the tuned model is surely worse, even where it is better in all."""
    sentence: str
    """For the user, in English."""
    worse_figures: tuple[str, ...] = ()
    """Figures of what was written that got surely worse: names as in ``Evaluation``, those of
    ``infill`` with ``infill_`` before them."""
    lines_not_sure: bool = False
    """Whether figures of what was written have intervals, and none got surely better."""
    stops_less: bool = False
    """Whether the tuned model surely ends less often by itself after filling in."""
    forgets: tuple[Literal["library"] | TaskSet, ...] = ()
    """What it got worse at beyond its bound, of ``Forgetting``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Base against tuned on the held-out files."""

    files: int
    files_available: int
    tokens: int
    bytes_scored: int
    base_bits_per_byte: float
    tuned_bits_per_byte: float
    difference: Interval
    """Tuned minus base, bits per byte; negative is better."""
    cursors: int
    exact_match: dict[str, float]
    """``base`` and ``tuned``: share of held-out next lines completed exactly."""
    edit_similarity: dict[str, float]
    """``base`` and ``tuned``: mean similarity of the next line, 0 to 1."""
    completions: tuple[Completion, ...]
    """In the order in which they were drawn, as ``infills`` are."""
    sampled: str
    """How the files and cursors were chosen, in a sentence."""
    names: int = 0
    """Names asked for over all cursors; see ``Completion.names``."""
    name_recall: dict[str, float] = field(default_factory=dict)
    """``base`` and ``tuned``: share of those names that stand in the line written."""
    line_differences: dict[str, Interval] = field(default_factory=dict)
    """Tuned minus base, for ``exact_match``, ``edit_similarity`` and ``name_recall``."""
    groups: tuple[GroupFigures, ...] = ()
    """By language, then by directory, each by descending bytes."""
    infill: dict[str, Compared] = field(default_factory=dict)
    """Fill in the middle: ``exact_match``, ``edit_similarity``, ``name_recall`` and ``stop_rate``,
    the share that ended by itself; empty where the model has no tokens for it."""
    infills: tuple[Completion, ...] = ()
    taught: bool = False
    """Whether the base cannot fill in: it went on from the code before a gap, and was cut off after
    as many lines as the gap has."""
    line_groups: tuple[LineGroup, ...] = ()
    """By language, then by directory, each by descending number of completions."""
    left_out: int = 0
    """Held-out files that are near-duplicates of a training file, and in no figure."""
    forgetting: Forgetting | None = None
    """None in files that older versions wrote."""
    memorisation: Memorisation | None = None
    """None if the run has no canaries."""
    judgement: Judgement | None = None
    """None in files that older versions wrote, until they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What the training loop did."""

    steps: int
    tokens: int
    """Positions fed through the model since the run began, padding not counted."""
    seconds: float
    """Of this process, which may have resumed the run."""
    tokens_per_second: float
    """Of this process; 0 if nothing was left to train."""
    first_loss: float
    """Mean loss per target of the first step, nats."""
    last_loss: float
    interrupted: bool
    checkpoint: str | None
    """The newest checkpoint's folder name, or None."""
    passes: Passes
    """As they were at the end: where memory ran out, not those of the beginning."""
    best_step: int | None = None
    """The step of the lowest held-out loss, whose weights are exported; None: the last step's."""
    heldout_loss: float | None = None
    """After that step, nats per target of the fixed sample."""
    stopped_early: bool = False
    """Whether the held-out loss had not fallen for as long as the patience allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What ``tune`` hands back."""

    run: str
    steps: int
    tokens: int
    tokens_kept: float
    tokens_per_second: float
    interrupted: bool
    adapter: str | None
    evaluation: Evaluation | None
    outcome: Outcome | None = None
    """What was predicted and measured; None where nothing could be predicted."""
    best_step: int | None = None
    """The step whose weights were exported, by the held-out loss; None: the last."""
    heldout_loss: float | None = None
    """After it, nats per target of a fixed sample."""
    stopped_early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinding:
    """One thing that was checked of a run."""

    what: str
    ok: bool
    detail: str
    """What is wrong, or what was found, as a phrase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What ``verify`` found."""

    run: str
    ok: bool
    findings: tuple[RunFinding, ...]
    advice: tuple[str, ...]
    """Sentences: what can be saved, and how."""
