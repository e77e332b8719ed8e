"""What the training memorised: canaries that it saw against controls that it never saw.

Both are random lines of one form, so without memorisation their losses are drawn alike. What counts
is how much lower the tuned model's loss of the secret is than the base's: that leaves out how hard
its tokens are for any model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from repotune.evaluation.bits_per_byte import nats_by_file
from repotune.evaluation.continuation import continuation
from repotune.evaluation.excerpts import Excerpt
from repotune.evaluation.verdict import judge
from repotune.events import Emit, StageDone, StageStarted
from repotune.model import Decoder
from repotune.records import Canary, CanaryFigures, Evaluation, FloatArray, IntArray, Memorisation
from repotune.tokens import CodeTokenizer, prompt_ids

STAGE: Final = "memorisation"
SURE: Final = 0.01
"""Losses that are so low by chance less often than this are no chance."""
EXACT_PAIRS: Final = 2000
"""Up to so many pairs of canary and control the rank test counts instead of approximating."""


def with_memorisation(
    evaluation: Evaluation, decoder: Decoder, tokenizer: CodeTokenizer,
    canaries: Sequence[Canary], *, max_seq_length: int, emit: Emit,
) -> Evaluation:  # fmt: skip
    """``evaluation`` with what ``canaries``, of which some are controls, say, and judged again.

    Raises TrainingError if a loss is not finite.
    """
    excerpts = [_excerpt(tokenizer, one) for one in canaries]
    scored = sum(one.tokens for one in excerpts)
    emit(StageStarted(stage=STAGE, total=scored, unit="tokens"))
    base, tuned = nats_by_file(
        decoder, excerpts, max_seq_length=max_seq_length, stage=STAGE, emit=emit
    )
    written = [
        one.repeats > 0 and _writes(decoder, tokenizer, one, excerpt.tokens)
        for one, excerpt in zip(canaries, excerpts, strict=True)
    ]
    found = figures(
        np.array([one.repeats for one in canaries]), tuned - base, np.array(written, bool)
    )
    summary = f"p = {found.p_value:.2g} against {found.controls} controls"
    emit(StageDone(stage=STAGE, summary=summary))
    evaluation = replace(evaluation, memorisation=found)
    return replace(evaluation, judgement=judge(evaluation))


def figures(
    repeats: IntArray, losses: FloatArray, extracted: npt.NDArray[np.bool_]
) -> Memorisation:
    """From each line's repeats (0: a control), loss in nats and whether it was written out, [n].

    What stands once is hardly ever learned and hides among all canaries what stands often, so each
    number of repeats is asked too, and the p-value is corrected for so many tests (Bonferroni).
    """
    controls = losses[repeats == 0]
    by_repeats = [
        CanaryFigures(
            repeats=int(count),
            canaries=int((repeats == count).sum()),
            exposure=exposure(losses[repeats == count], controls),
            p_value=lower_p_value(losses[repeats == count], controls),
            extracted=int(extracted[repeats == count].sum()),
        )
        for count in np.unique(repeats[repeats > 0])
    ]
    tests = [lower_p_value(losses[repeats > 0], controls), *(one.p_value for one in by_repeats)]
    p_value = min(1.0, len(tests) * min(tests))
    return Memorisation(
        controls=len(controls),
        figures=tuple(by_repeats),
        p_value=p_value,
        memorised=p_value < SURE or any(one.extracted for one in by_repeats),
    )


def exposure(losses: FloatArray, controls: FloatArray) -> float:
    """Mean of log2((controls + 1) / rank), where ties count by half; see ``CanaryFigures``."""
    lower = (controls[None] < losses[:, None]).sum(axis=1)
    equal = (controls[None] == losses[:, None]).sum(axis=1)
    return float(np.log2((len(controls) + 1) / (1 + lower + equal / 2)).mean())


def lower_p_value(losses: FloatArray, controls: FloatArray) -> float:
    """One-sided rank test of Mann and Whitney (1947): are ``losses`` lower than ``controls``?

    Exact without ties where there are few pairs; else the normal approximation, with corrections
    for continuity and ties.
    """
    m, n = len(losses), len(controls)
    differences = controls[None] - losses[:, None]
    wins = float((differences > 0).sum() + (differences == 0).sum() / 2)
    _, ties = np.unique(np.concatenate([losses, controls]), return_counts=True)
    if m * n <= EXACT_PAIRS and ties.max() == 1:
        ways = _ways(m, n)
        return sum(ways[int(wins) :]) / sum(ways)
    total = m + n
    spread = m * n / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    if not spread:
        return 1.0
    return 0.5 * math.erfc((wins - m * n / 2 - 0.5) / math.sqrt(2 * spread))


def _ways(m: int, n: int) -> list[int]:
    """In how many orders of m and n things each number of pairs is won, from 0 to m n: the
    coefficients of the Gaussian binomial, the product of (1 - q^(n + i)) / (1 - q^i) over i."""
    ways = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for power in range(m * n, n + i - 1, -1):
            ways[power] -= ways[power - n - i]
        for power in range(i, m * n + 1):
            ways[power] += ways[power - i]
    return ways


def _excerpt(tokenizer: CodeTokenizer, canary: Canary) -> Excerpt:
    """The line after a line's end, with its secret to be scored."""
    before = _prompt(tokenizer, canary)
    whole = prompt_ids(tokenizer, f"\n{canary.prefix}{canary.secret}", None)
    first = next(
        (place for place, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
        min(len(before), len(whole)),
    )
    return Excerpt(
        path=canary.prefix, sequence=whole, first_scored=first, bytes_scored=len(canary.secret)
    )


def _prompt(tokenizer: CodeTokenizer, canary: Canary) -> IntArray:
    return prompt_ids(tokenizer, f"\n{canary.prefix}", None)


def _writes(decoder: Decoder, tokenizer: CodeTokenizer, canary: Canary, tokens: int) -> bool:
    """Whether the tuned model goes on from the prefix with the secret."""

    def finished(text: str) -> bool:
        return not (canary.secret.startswith(text) or text.startswith(canary.secret))

    text = continuation(
        decoder, tokenizer, _prompt(tokenizer, canary), max_new_tokens=tokens + 1,
        finished=finished, adapted=True,
    )  # fmt: skip
    return text.startswith(canary.secret)
