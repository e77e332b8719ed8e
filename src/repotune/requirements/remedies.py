"""Ways to less memory, in the order in which the program takes or proposes them.

``planning.policy`` takes the first by itself, a layer at a time; ``planning.fit.nearest`` proposes
the others when even the least of the first does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from repotune.config import FineTuningConfig
from repotune.planning.fit import passes_per_step, peak_of, setup_of
from repotune.planning.memory import offloaded_bytes
from repotune.planning.policy import GIB
from repotune.planning.speed import step_seconds
from repotune.planning.target import Target
from repotune.records import LayerPolicy, Policy, Shape
from repotune.requirements.figures import Level, Remedy, Settings

START: Final = FineTuningConfig(batch_size=4, gradient_accumulation_steps=4, max_seq_length=2048)
STEPS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("bits_16", {"use_4bit": False}),
    ("batch", {"batch_size": 2, "gradient_accumulation_steps": 8}),
    ("batch", {"batch_size": 1, "gradient_accumulation_steps": 16}),
    ("bits_4", {"use_4bit": True}),
    ("length", {"max_seq_length": 1536}),
    ("length", {"max_seq_length": 1024}),
    ("length", {"max_seq_length": 512}),
    ("length", {"max_seq_length": 256}),
)
"""Each on top of those before it, in the order of ``nearest``."""
LEAST: Final[Level] = "moments_host"
"""The least memory that the planner can do with."""
LOWER_RANK: Final = 8
"""The old page's remedy, from 16."""


LEVEL_POLICY: Final[dict[Level, LayerPolicy]] = {
    "all": LayerPolicy(saving="all"),
    "attention": LayerPolicy(saving="attention"),
    "outputs": LayerPolicy(saving="outputs"),
    "outputs_host": LayerPolicy(saving="outputs", offloaded=True),
    "moments_host": LayerPolicy(saving="outputs", offloaded=True),
    "input": LayerPolicy(saving="input"),
}
"""In the order of ``planning.policy``; the last only where the host has no room."""


def uniform(level: Level, shape: Shape) -> Policy:
    """Every layer at one level."""
    layers = (LEVEL_POLICY[level],) * shape.num_hidden_layers
    return Policy(layers=layers, reason="", optimizer_offloaded=level == "moments_host")


def settings_of(config: FineTuningConfig) -> Settings:
    """The four that a preset has."""
    return Settings(
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_seq_length=config.max_seq_length,
        use_4bit=config.use_4bit,
    )


class Ladder:
    """Remedies for one model, with the rates of one card."""

    def __init__(self, shape: Shape, target: Target) -> None:
        self._shape, self._target = shape, target

    def automatic(self) -> tuple[Remedy, ...]:
        """What the planner does by itself, at the default settings: no result changes."""
        return self._chain([(level, START, level) for level in LEVEL_POLICY])

    def proposed(self) -> tuple[Remedy, ...]:
        """What ``plan`` proposes where the least of ``automatic`` does not fit."""
        steps: list[tuple[str, FineTuningConfig, Level]] = []
        config = START
        for key, changes in STEPS:
            config = config.merged(changes)
            steps.append((key, config, LEAST))
        return self._chain(steps)

    def batch(self) -> Remedy:
        """The old page's first remedy: one row at a time, as many a step."""
        one_row = START.merged({"batch_size": 1, "gradient_accumulation_steps": 16})
        return self._alone(START, one_row)

    def length(self) -> Remedy:
        """Its second, rows of half the length, where the batch is 1 already."""
        one_row = START.merged({"batch_size": 1, "gradient_accumulation_steps": 16})
        return self._alone(one_row, one_row.merged({"max_seq_length": START.max_seq_length // 2}))

    def rank(self) -> Remedy:
        """Its third, a lower rank of LoRA, which the program never proposes."""
        return self._alone(START, START.merged({"lora_r": LOWER_RANK}))

    def _alone(self, before: FineTuningConfig, after: FineTuningConfig) -> Remedy:
        return self._chain([("", before, LEAST), ("", after, LEAST)])[1]

    def _chain(self, steps: Sequence[tuple[str, FineTuningConfig, Level]]) -> tuple[Remedy, ...]:
        rows: list[Remedy] = []
        first = self._seconds(*steps[0][1:])
        for key, config, level in steps:
            setup = setup_of(self._shape, config, self._target)
            policy = uniform(level, self._shape)
            peak = peak_of(setup, policy, self._target.context)
            kept = [row for row in rows if level != "input" or not row.host_gib]
            before = kept[-1].vram_gib.expected if kept else peak.expected
            rows.append(
                Remedy(
                    key=key,
                    level=level,
                    settings=settings_of(config),
                    lora_r=config.lora_r,
                    vram_gib=peak,
                    saved_gib=before - peak.expected,
                    host_gib=offloaded_bytes(setup, policy) / GIB,
                    time=self._seconds(config, level) / first,
                )
            )
        return tuple(rows)

    def _seconds(self, config: FineTuningConfig, level: Level) -> float:
        """A token's share of an optimizer step, as expected."""
        setup = setup_of(self._shape, config, self._target)
        step = step_seconds(
            setup,
            uniform(level, self._shape),
            self._target.rates.expected,
            row_tokens=config.max_seq_length,
        )
        passes = passes_per_step(config, self._target)
        return (passes * step.micro_batch + step.optimizer) / (passes * setup.tokens)
