"""Will it fit: bytes from a model's shape, and what to do with each layer's activations.

No torch here: a plan needs ``records.Shape``, never the model.
"""

from repotune.planning.memory import resident_bytes, saved_layer_bytes, working_bytes
from repotune.planning.policy import choose_policy

__all__ = ["choose_policy", "resident_bytes", "saved_layer_bytes", "working_bytes"]
