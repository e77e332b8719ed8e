"""The model card, ``README.md``: what it is, what it was made of, how well it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from repotune.records import (
    CorpusSummary,
    Evaluation,
    ExportFormat,
    LoraSpec,
    Proof,
    Quantisation,
)

CARD: Final = "README.md"
LANGUAGES_SHOWN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the card says."""

    name: str
    base: str
    """A hub id, or the name of a folder or file, without its path."""
    revision: str | None
    licence: str | None
    """The base model's, as the hub tags it; None if it is not known."""
    format: ExportFormat
    quantisation: Quantisation | None
    lora: LoraSpec
    steps: int | None
    corpus: CorpusSummary | None
    evaluation: Evaluation | None
    fim: str | None
    """How a prompt around a gap is written; None if the model has no tokens for it."""
    stops: tuple[str, ...]
    command: str
    proof: Proof | None
    unchecked: tuple[str, ...]


def model_card(facts: CardFacts) -> str:
    """The card in Markdown, with the head that hubs read."""
    sections = (
        _head(facts),
        f"# {facts.name}\n\n{_what(facts)}",
        f"## Use\n\n```\n{facts.command}\n```\n\n{_tokens(facts)}",
        f"## Data\n\n{_data(facts.corpus)}",
        f"## Evaluation\n\n{_evaluation(facts.evaluation)}",
        f"## Check of this export\n\n{_check(facts)}",
        f"## Licence\n\n{_licence(facts)}",
    )
    return "\n\n".join(sections) + "\n"


def _head(facts: CardFacts) -> str:
    library = {"peft": "peft", "merged": "transformers", "vllm": "transformers"}.get(
        facts.format, "gguf"
    )
    lines = [
        f"license: {facts.licence or 'other'}",
        *([f"base_model: {facts.base}"] if "/" in facts.base else []),
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags: [code, lora, repotune]",
    ]
    return "\n".join(["---", *lines, "---"])


def _what(facts: CardFacts) -> str:
    base = f"{facts.base} (revision {facts.revision})" if facts.revision else facts.base
    form = {
        "peft": "a LoRA adapter in PEFT's format",
        "merged": "the base model with the adapter merged into its weights, in 16 bits",
        "vllm": "the base model with the adapter merged into its weights, in 16 bits",
    }.get(facts.format, f"a GGUF file in {(facts.quantisation or '').upper()}, adapter merged in")
    steps = f" in {facts.steps:,} steps" if facts.steps else ""
    return (
        f"A code model tuned by repotune on one repository: {form}. Base model: {base}. "
        f"LoRA of rank {facts.lora.r}, alpha {facts.lora.alpha:g}, on "
        f"{', '.join(facts.lora.target_modules)}{steps}."
    )


def _tokens(facts: CardFacts) -> str:
    stops = ", ".join(f"`{token}`" for token in facts.stops)
    if facts.fim is None:
        return f"It completes from left to right. It stops at {stops}."
    return f"To fill in the middle: `{facts.fim}`. It stops at {stops}."


def _data(corpus: CorpusSummary | None) -> str:
    if corpus is None:
        return "The corpus of the run is no longer there."
    ranked = sorted(corpus.languages.items(), key=lambda item: (-item[1], item[0]))
    languages = ", ".join(f"{name} {count:,}" for name, count in ranked[:LANGUAGES_SHOWN])
    secrets = sum(corpus.secrets_replaced.values())
    return (
        f"{corpus.files_kept:,} of {corpus.files_seen:,} files of the repository "
        f"({corpus.bytes_kept / 1e6:,.1f} MB): {corpus.files_train:,} to train on, "
        f"{corpus.files_heldout:,} held out. Files by language: {languages}. "
        f"{secrets:,} secrets were replaced by placeholders before training."
    )


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "Not evaluated: `repotune evaluate` compares base and tuned on held-out files."
    base, tuned = evaluation.base_bits_per_byte, evaluation.tuned_bits_per_byte
    low, high = evaluation.difference.low, evaluation.difference.high
    lines = [
        "| on held-out files | base | tuned |",
        "|---|---|---|",
        f"| bits per byte | {base:.4f} | {tuned:.4f} |",
    ]
    if evaluation.cursors:
        exact, similar = evaluation.exact_match, evaluation.edit_similarity
        lines += [
            f"| next line, exact | {exact['base']:.1%} | {exact['tuned']:.1%} |",
            f"| next line, edit similarity | {similar['base']:.3f} | {similar['tuned']:.3f} |",
        ]
    if evaluation.infill:
        gaps, stops = evaluation.infill["exact_match"], evaluation.infill["stop_rate"]
        lines += [
            f"| gap filled, exact | {gaps.base:.1%} | {gaps.tuned:.1%} |",
            f"| gap filled, stopped by itself | {stops.base:.1%} | {stops.tuned:.1%} |",
        ]
    return (
        "\n".join(lines) + f"\n\nDifference in bits per byte, 95 % interval: {low:+.4f} to "
        f"{high:+.4f}; {evaluation.files} files, {evaluation.tokens:,} tokens."
    )


def _check(facts: CardFacts) -> str:
    lines = []
    if facts.proof is not None:
        proof = facts.proof
        lines.append(
            f"Read by {proof.by} and compared with the decoder that trained it, at "
            f"{proof.positions} positions: logits differ by {proof.drift:.2%} (relative L2; bound "
            f"{proof.drift_bound:.0%}), the same token is most likely at {proof.same_token:.1%}, "
            f"the loss is {proof.their_nats:.4f} where the decoder has {proof.nats:.4f} nats a "
            f"token{_share(proof)}."
        )
    return "\n\n".join([*lines, *(f"Not checked: {one}" for one in facts.unchecked)])


def _share(proof: Proof) -> str:
    if proof.adapter_share is None:
        return ""
    return f", and {proof.adapter_share:.0%} of what the adapter changes is there"


def _licence(facts: CardFacts) -> str:
    if facts.licence is None:
        return "The base model's licence is not known here: look it up before you pass this on."
    return (
        f"The base model is under {facts.licence}, which holds for this too; the repository that "
        "it was trained on may ask for more."
    )
