"""AdamW over the LoRA matrices, all of them as one tensor (arXiv 1711.05101)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class AdamW:
    """``torch.optim.AdamW``, betas (0.9, 0.999), eps 1e-8, whose moments have the weights' names.

    ``flat`` [N] fp32 is updated in place, by the gradient in its ``.grad``; ``weights`` are views
    that cover it. All state exists from the start, so that memory is known before the first step.
    One tensor is one launch on a GPU, where hundreds would keep it waiting for the host.
    """

    def __init__(self, flat: Tensor, weights: Mapping[str, Tensor], *, weight_decay: float) -> None:
        assert sum(weight.numel() for weight in weights.values()) == flat.numel()
        self._flat = flat
        self._adamw = torch.optim.AdamW(
            [flat], betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, fused=True
        )
        self._exp_avg, self._exp_avg_sq = torch.zeros_like(flat), torch.zeros_like(flat)
        self.exp_avg = _views(self._exp_avg, flat, weights)
        """Running mean of the gradients, by name."""
        self.exp_avg_sq = _views(self._exp_avg_sq, flat, weights)
        """Running mean of their squares, by name."""
        self._use_moments(steps=0)

    def zero_grad(self) -> None:
        """Set the gradients to zero in place: they are buffers that a decoder adds to."""
        self._adamw.zero_grad(set_to_none=False)

    def clip(self, max_grad_norm: float) -> float:
        """Scale a longer gradient down to ``max_grad_norm``; returns its L2 norm before."""
        return float(torch.nn.utils.clip_grad_norm_([self._flat], max_grad_norm))

    def step(self, learning_rate: float) -> None:
        """Update the weights from their gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()

    def restore(
        self, *, steps: int, exp_avg: Mapping[str, Tensor], exp_avg_sq: Mapping[str, Tensor]
    ) -> None:
        """Take over the moments as they were after ``steps`` steps."""
        for name in self.exp_avg:
            self.exp_avg[name].copy_(exp_avg[name])
            self.exp_avg_sq[name].copy_(exp_avg_sq[name])
        self._use_moments(steps)

    def _use_moments(self, steps: int) -> None:
        self._adamw.state[self._flat] = {
            "step": torch.tensor(float(steps), device=self._flat.device),
            "exp_avg": self._exp_avg,
            "exp_avg_sq": self._exp_avg_sq,
        }


def _views(moments: Tensor, flat: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The places in ``moments`` that the weights have in ``flat``."""
    start = flat.storage_offset()
    return {
        name: moments.as_strided(weight.size(), weight.stride(), weight.storage_offset() - start)
        for name, weight in weights.items()
    }
