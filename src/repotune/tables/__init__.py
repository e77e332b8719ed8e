"""Facts as data: GPUs, cloud offers and models, each row with its source and date; presets and
the requirements page's figures."""

from repotune.tables.clouds import PRICES_CHANGE, clouds
from repotune.tables.gpus import find_gpu, gpus
from repotune.tables.models import known_model, models
from repotune.tables.page import page_claims
from repotune.tables.presets import find_preset, presets

__all__ = [
    "PRICES_CHANGE",
    "clouds",
    "find_gpu",
    "find_preset",
    "gpus",
    "known_model",
    "models",
    "page_claims",
    "presets",
]
