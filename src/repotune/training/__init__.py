"""Training: what one step does, in which order rows come, and how a run survives being stopped.

``order`` says which row comes when, ``schedule`` the learning rate, ``step`` is one optimizer step
over one global batch, ``loop`` all of them; ``checkpoint`` is what the next step depends on, on
disk; ``loss_scale`` keeps fp16 gradients in range; ``metrics`` writes what the loop says; ``stop``
turns Ctrl-C into a clean end.
"""

from repotune.training.checkpoint import Checkpoint, latest, load
from repotune.training.loop import total_steps, train
from repotune.training.loss_scale import LossScale
from repotune.training.metrics import log_metrics
from repotune.training.order import Rows
from repotune.training.step import Trainable
from repotune.training.stop import stop_on_signals

__all__ = [
    "Checkpoint",
    "LossScale",
    "Rows",
    "Trainable",
    "latest",
    "load",
    "log_metrics",
    "stop_on_signals",
    "total_steps",
    "train",
]
