"""Dynamic loss scaling: fp16 gradients are computed times a factor that keeps them in its range.

fp16 holds numbers from 6e-8 to 65,504, and gradients lie below that range sooner than above it
(arXiv 1710.03740). The factor is a power of two, so that multiplying and dividing by it rounds
nothing; it is halved when a gradient overflows, and doubled when none has for a while.

A step whose gradient overflows updates no weight. It is a step all the same: its rows are used and
the learning rate moves on (as in plain PyTorch loops; accelerate holds the schedule back), so that
both depend on the step's number alone. Only AdamW's own count of updates leaves it out, as it does
in torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale is doubled, as in ``torch.amp.GradScaler``."""
LEAST = 1.0
"""Below it fp16 would be of no use: what overflows then is not the scale's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossScale:
    """The state between two steps; factors and start are those of ``torch.amp.GradScaler``."""

    value: float = 65536.0
    clean_steps: int = 0
    """Steps without an overflow since the value changed."""
    skipped: int = 0
    """Steps of the run whose gradient overflowed, so that no weight was updated."""

    def after(self, overflowed: bool) -> LossScale:
        """The state after a step."""
        if overflowed:
            return LossScale(value=self.value / 2.0, skipped=self.skipped + 1)
        if self.clean_steps + 1 == GROWTH_INTERVAL:
            return replace(self, value=self.value * 2.0, clean_steps=0)
        return replace(self, clean_steps=self.clean_steps + 1)
