"""Facts as data: GPUs, cloud offers and models, each row with its source and date."""

from repotune.tables.clouds import PRICES_CHANGE, clouds
from repotune.tables.gpus import find_gpu, gpus
from repotune.tables.models import known_model, models

__all__ = ["PRICES_CHANGE", "clouds", "find_gpu", "gpus", "known_model", "models"]
