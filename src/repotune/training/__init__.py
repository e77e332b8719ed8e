"""Training: what one step does, in which order rows come, and how a run survives being stopped.

``order`` says which row comes when, ``schedule`` the learning rate, ``step`` is one optimizer step
over one global batch, ``loop`` all of them; ``checkpoint`` is what the next step depends on, on
disk, ``saver`` when it is written and what is kept; ``heldout`` finds the best step, ``healing``
what to do when memory runs out, ``watch`` says what else is odd; ``loss_scale`` keeps fp16
gradients in range; ``metrics`` writes what the loop says, ``curves`` draws it for TensorBoard.
"""

from repotune.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    damages,
    latest,
    load,
    load_lora,
)
from repotune.training.heldout import Heldout
from repotune.training.loop import total_steps, train
from repotune.training.loss_scale import LossScale
from repotune.training.metrics import log_metrics
from repotune.training.order import Rows
from repotune.training.step import Trainable

__all__ = [
    "Checkpoint",
    "Heldout",
    "LossScale",
    "Rows",
    "Trainable",
    "checkpoint_path",
    "damages",
    "latest",
    "load",
    "load_lora",
    "log_metrics",
    "total_steps",
    "train",
]
