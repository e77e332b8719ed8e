"""The learning rate of each step: a warm-up, then a curve. Formulas as in transformers.

Source: ``transformers/optimization.py``, ``get_cosine_schedule_with_warmup``,
``get_linear_schedule_with_warmup`` and ``get_constant_schedule_with_warmup``.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

LrSchedulerType: TypeAlias = Literal["cosine", "linear", "constant"]


def warmup_steps(warmup_ratio: float, steps: int) -> int:
    """How many of ``steps`` warm up."""
    return round(warmup_ratio * steps)


def learning_rate_at(
    step: int, *, steps: int, warmup: int, peak: float, kind: LrSchedulerType
) -> float:
    """The learning rate of 0-based ``step``, when the first ``warmup`` of ``steps`` warm up.

    Warm-up: ``peak * step / warmup``. After it, with ``p = (step - warmup) / (steps - warmup)``:
    cosine ``peak * (1 + cos(pi p)) / 2``, linear ``peak * (1 - p)``, constant ``peak``.
    """
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    match kind:
        case "cosine":
            return peak * (1.0 + math.cos(math.pi * progress)) / 2.0
        case "linear":
            return peak * (1.0 - progress)
        case "constant":
            return peak
