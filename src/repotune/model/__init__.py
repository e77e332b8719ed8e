"""A model: finding it, reading its weights, running it forward and back, completing with it.

``resolve`` and ``hub`` find a model, ``shape`` says what it is, ``weights`` reads it tensor by
tensor; ``decoder`` is built of ``layer``s, these of ``linear``s; ``generate`` completes many
prompts at once, whose keys and values lie in a ``cache``, by steps of ``greedy``.
"""

from repotune.model.decoder import Decoder
from repotune.model.generate import generate_batch
from repotune.model.quantised import QuantisedLayers
from repotune.model.resolve import resolve_model, weights_id
from repotune.model.shape import read_shape
from repotune.model.weights import WeightSource, open_weights, tensor_shapes

__all__ = [
    "Decoder",
    "QuantisedLayers",
    "WeightSource",
    "generate_batch",
    "open_weights",
    "read_shape",
    "resolve_model",
    "tensor_shapes",
    "weights_id",
]
