"""How long a run takes: its start, its training, and the evaluation at its end.

Not counted are downloads, a rehearsal, the writing of checkpoints, and the programming tasks, which
only ``repotune evaluate`` runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Final

from repotune.config import FineTuningConfig
from repotune.planning.cost import scaled
from repotune.planning.extent import (
    CPU_CACHE_BYTES,
    GAP_TOKENS,
    GPU_CACHE_SHARE,
    LINE_TOKENS,
    ON_CPU,
    ON_GPU,
    Extent,
)
from repotune.planning.fit import Fit, passes_per_step, step_of
from repotune.planning.memory import NF4_BYTES, resident_bytes
from repotune.planning.rates import Rates
from repotune.planning.setup import Setup, embedding_parameters, linear_parameters
from repotune.planning.speed import FORWARD_SHARE, Step, operations
from repotune.planning.target import Target
from repotune.records import Policy, Range, Shape

BYTES_PER_TOKEN: Final = Range(low=2.85, expected=3.2, high=3.5)
"""Of source code, by the vocabularies of CodeLlama, Llama 3 and Qwen2.5, where no tokenizer is at
hand: 12,933 files of real code have 3,900 tokens on average."""
ROW_FILL: Final = 0.98
"""Share of a row's positions that hold a token of the corpus: packing is best-fit."""
LOAD_BYTES_PER_SECOND: Final = Range(low=0.65e9, expected=1e9, high=1.6e9)
START_SECONDS: Final = Range(low=13, expected=20, high=32)
"""Imports, the walk, the first allocation of a GPU."""
CPU_START_SECONDS: Final = Range(low=2, expected=5, high=15)
PREPARED_BYTES_PER_SECOND: Final = Range(low=2e6, expected=3.4e6, high=6e6)
"""Of code, to rows: 31 MB in 9.2 s on 2 cores."""
PROMPT_SHARE: Final = (0.55, 0.7, 0.9)
"""Of the longest prompt: some places stand near the beginning of their file."""
WRITTEN_SHARE: Final = (0.6, 0.8, 1.1)
"""Of the longest line or gap: of those that are written on at once the longest decides; above 1,
since a prompt whose last token is not written again is begun anew."""
ENDED_SHARE: Final = (0.35, 0.4, 0.5)
"""Of the longest line or gap, by those that others wait for: the next begins where one ends, so the
mean decides. Lines of this project have 15 of 64 tokens and gaps 29 of 96; some never end."""
GPU_WARM_SECONDS: Final = (5.0, 9.0, 15.0)
"""Of an evaluation on a GPU: kernels for sizes that the training had not, steps that are recorded.
One that was planned at 5.8 s without it took 16.4 (the starter, H100)."""
TEXT_BYTES_PER_SECOND: Final = (12e6, 8e6, 5e6)
"""Of the training files, read for near-duplicates, twice, and for names: 35 and 14 MB a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The code that is to be learned."""

    files: int | None
    tokens: Range
    note: str
    """Whether they were counted or estimated, one sentence."""
    fills_in: bool = True
    """Whether gaps are filled at the end: only models with tokens for it can."""

    @property
    def bytes(self) -> Range:
        """Of the texts, by the usual bytes per token."""
        return scaled(self.tokens, BYTES_PER_TOKEN.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """How long a run takes."""

    steps: int
    tokens_per_second: Range
    hours_per_epoch: Range
    stages: dict[str, Range]
    """Hours of ``start``, ``training`` and ``evaluation``."""
    hours: Range
    """Their sum."""
    seconds: dict[str, float]
    """Of an optimizer step by what takes them, as expected."""


def run_times(
    shape: Shape, config: FineTuningConfig, one: Fit, target: Target, workload: Workload
) -> RunTimes:
    """Of the whole run. Its steps are rows of the corpus' tokens over rows a step, as many as
    ``max_steps`` at most."""
    passes = passes_per_step(config, target)
    in_step = one.setup.tokens * passes
    each_step = step_of(one, config, target)
    seconds = [passes * each.micro_batch + each.optimizer for each in each_step]
    trained = scaled(workload.tokens, (1 - config.heldout_share) / ROW_FILL)
    epoch = [max(1, ceil(n / in_step)) for n in (trained.low, trained.expected, trained.high)]
    steps = [max(1, ceil(n * config.num_train_epochs)) for n in epoch]
    if config.max_steps is not None:
        steps = [config.max_steps] * 3
    forward = [FORWARD_SHARE * each.micro_batch / one.setup.tokens for each in each_step]
    training = [
        count * each + _measurements(count, config) * one_token * _extent(target).sample_tokens
        for count, each, one_token in zip(steps, seconds, forward, strict=True)
    ]
    stages = {
        "start": _start(shape, target, workload),
        "training": _range(training),
        "evaluation": _range(_evaluation(config, one, target, workload, forward)),
    }
    hours = {name: scaled(one_stage, 1 / 3600) for name, one_stage in stages.items()}
    return RunTimes(
        steps=steps[1],
        tokens_per_second=Range(
            low=in_step / seconds[2], expected=in_step / seconds[1], high=in_step / seconds[0]
        ),
        hours_per_epoch=_range([n * s / 3600 for n, s in zip(epoch, seconds, strict=True)]),
        stages=hours,
        hours=Range(
            low=sum(each.low for each in hours.values()),
            expected=sum(each.expected for each in hours.values()),
            high=sum(each.high for each in hours.values()),
        ),
        seconds=_by_part(each_step[1], passes),
    )


def _start(shape: Shape, target: Target, workload: Workload) -> Range:
    """Seconds: the code becomes rows, the model is loaded."""
    loaded = (linear_parameters(shape) + embedding_parameters(shape)) * 2
    base = START_SECONDS if target.device == "cuda" else CPU_START_SECONDS
    load, prepare, texts = LOAD_BYTES_PER_SECOND, PREPARED_BYTES_PER_SECOND, workload.bytes
    return Range(
        low=base.low + loaded / load.high + texts.low / prepare.high,
        expected=base.expected + loaded / load.expected + texts.expected / prepare.expected,
        high=base.high + loaded / load.low + texts.high / prepare.low,
    )


def _evaluation(
    config: FineTuningConfig, one: Fit, target: Target, workload: Workload,
    forward: Sequence[float],
) -> list[float]:  # fmt: skip
    """Seconds, if things go well, as expected, and badly; base and tuned do all of it.

    ``forward``: seconds of a token that is read.
    """
    if not config.evaluate:
        return [0.0, 0.0, 0.0]
    assert one.policy is not None
    extent, found = _extent(target), []
    limit = config.eval_max_tokens or extent.heldout_tokens
    library = extent.library_files * extent.library_characters / BYTES_PER_TOKEN.expected
    heldout = scaled(workload.tokens, config.heldout_share)
    kinds = [(extent.cursors, LINE_TOKENS)]
    kinds += [(extent.gaps, GAP_TOKENS)] if workload.fills_in else []
    rates = (target.rates.fast, target.rates.expected, target.rates.slow)
    tokens = (heldout.low, heldout.expected, heldout.high)
    for place, (each, count) in enumerate(zip(rates, tokens, strict=True)):
        read = library + (count if limit is None else min(limit, count))
        written = 0.0
        for sequences, most in kinds:
            prompt = min(config.max_seq_length, extent.prompt_tokens + most) - most
            prompt = max(prompt, config.max_seq_length // 2)
            read += sequences * PROMPT_SHARE[place] * prompt
            at_once = min(sequences, _slots(one.setup, target, prompt + most))
            step = _writing(one.setup, one.policy, each, at_once)
            before = ceil(sequences / at_once) - 1
            steps = most * (before * ENDED_SHARE[place] + WRITTEN_SHARE[place])
            written += steps * step
        texts = workload.bytes.expected / TEXT_BYTES_PER_SECOND[place]
        warm = GPU_WARM_SECONDS[place] if target.device == "cuda" else 0.0
        found.append(2 * (forward[place] * read + written) + texts + warm)
    return found


def _slots(setup: Setup, target: Target, tokens: int) -> int:
    """Sequences of so many tokens that are written on at once: keys and values of each have to lie
    in what ``model.generate`` takes for them, beside the weights."""
    sequence = setup.shape.cached_token_bytes * tokens * setup.itemsize // 2
    room = CPU_CACHE_BYTES
    if target.device == "cuda":
        room = int(GPU_CACHE_SHARE * (target.free_bytes - resident_bytes(setup)))
    return max(1, room // sequence)


def _writing(setup: Setup, policy: Policy, rates: Rates, sequences: int) -> float:
    """Seconds of a token of each of ``sequences``: every weight is read once, those of 4 bits
    written and read again in 16."""
    linear = linear_parameters(setup.shape)
    head = setup.shape.vocab_size * setup.shape.hidden_size
    each = NF4_BYTES + 2 * setup.itemsize if setup.use_4bit else setup.itemsize
    read = (each * linear + setup.itemsize * head) / rates.bandwidth
    multiplied = 2 * (linear + head) * sequences / rates.matmul_flops
    return read + multiplied + FORWARD_SHARE * operations(setup, policy) * rates.operation_seconds


def _measurements(steps: int, config: FineTuningConfig) -> int:
    """Of the held-out loss during the training: every so many steps, and at the end."""
    return ceil(steps / (config.eval_steps or config.save_steps)) if config.heldout_share else 0


def _extent(target: Target) -> Extent:
    return ON_GPU if target.device == "cuda" else ON_CPU


def _by_part(step: Step, passes: int) -> dict[str, float]:
    """Seconds of an optimizer step."""
    parts = {name: passes * seconds for name, seconds in asdict(step).items()}
    return {**parts, "optimizer": step.optimizer}


def _range(values: Sequence[float]) -> Range:
    low, expected, high = values
    return Range(low=low, expected=expected, high=high)
