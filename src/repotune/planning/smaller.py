"""Which model to take where no setting makes the one asked for fit."""

from __future__ import annotations

from repotune.config import FineTuningConfig
from repotune.planning.fit import fastest
from repotune.planning.setup import parameters
from repotune.planning.target import Target
from repotune.records import KnownModel, Shape
from repotune.tables import models


def smaller_model(
    shape: Shape, target: Target, base: FineTuningConfig
) -> tuple[KnownModel, FineTuningConfig] | None:
    """The largest known model below ``shape`` that fits, with the settings that suit it there.

    A model of code goes before a larger one of general text; None if none fits.
    """
    size = parameters(shape)
    smaller = [one for one in models() if parameters(one.shape) < size]
    smaller.sort(key=lambda one: (not one.code, -parameters(one.shape)))
    for one in smaller:
        config = fastest(one.shape, target, base)
        if config is not None:
            return one, config
    return None
