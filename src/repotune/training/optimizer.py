"""AdamW over the LoRA matrices, all of them as one tensor (arXiv 1711.05101)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8
CHUNK = 2**22
"""Numbers whose moments are on the device at a time, 32 MiB, where they wait in host memory."""


class AdamW:
    """The update of ``torch.optim.AdamW``, whose moments have the weights' names.

    ``flat`` [N] fp32 is updated in place, by the gradient in its ``.grad``; ``weights`` are views
    that cover it. All state exists from the start, so that memory is known before the first step.
    One tensor is one launch on a GPU, where hundreds would keep it waiting for the host. With
    ``on_host`` the moments wait in pinned host memory, and come and go in chunks. The weights named
    in ``undecayed``, which are the last ones, are not drawn to zero.
    """

    def __init__(
        self, flat: Tensor, weights: Mapping[str, Tensor], *, weight_decay: float,
        on_host: bool = False, undecayed: Collection[str] = (),
    ) -> None:  # fmt: skip
        assert sum(weight.numel() for weight in weights.values()) == flat.numel()
        self._flat, self._weights, self._weight_decay = flat, weights, weight_decay
        self._on_host = on_host
        self._decayed = flat.numel() - sum(weights[name].numel() for name in undecayed)
        first = flat.storage_offset() + self._decayed
        assert all(weights[name].storage_offset() >= first for name in undecayed)
        self._exp_avg, self._exp_avg_sq = (self._zeros(on_host=on_host) for _ in range(2))
        self._steps = torch.zeros((), dtype=torch.float32, device=flat.device)
        self.updates = 0
        """How often ``step`` was called: while it stands still, so do the weights."""
        self.exp_avg = _views(self._exp_avg, flat, weights)
        """Running mean of the gradients, by name."""
        self.exp_avg_sq = _views(self._exp_avg_sq, flat, weights)
        """Running mean of their squares, by name."""

    def move_to_host(self) -> None:
        """Let the moments wait in host memory from now on.

        They stay where they are if the host has no room, which is a RuntimeError.
        """
        if self._on_host:
            return
        moved = [self._zeros(on_host=True) for _ in range(2)]
        self._exp_avg = moved[0].copy_(self._exp_avg)
        self._exp_avg_sq = moved[1].copy_(self._exp_avg_sq)
        self._on_host = True
        # In place: a checkpoint looks at the same dictionaries.
        self.exp_avg.update(_views(self._exp_avg, self._flat, self._weights))
        self.exp_avg_sq.update(_views(self._exp_avg_sq, self._flat, self._weights))

    def zero_grad(self) -> None:
        """Set the gradients to zero in place: they are buffers that a decoder adds to."""
        self._gradient().zero_()

    def unscale(self, loss_scale: float) -> None:
        """Divide the gradients by ``loss_scale``, in place; a power of two rounds nothing."""
        self._gradient().div_(loss_scale)

    def clip(self, max_grad_norm: float) -> Tensor:
        """Scale a longer gradient down to ``max_grad_norm``; returns its L2 norm before, []."""
        return torch.nn.utils.clip_grad_norm_([self._flat], max_grad_norm)

    def step(self, learning_rate: float, *, figures: Tensor) -> None:
        """Update the weights from their gradients; do nothing unless all ``figures`` are finite.

        That is decided on the device, which the host need not wait for.
        """
        self.updates += 1
        skip = (~figures.isfinite().all()).float().reshape(1)
        self._steps += 1
        tensors = (self._flat, self._gradient(), self._exp_avg, self._exp_avg_sq)
        for part, weight_decay in self._parts():
            weight, gradient, *waiting = (one[part] for one in tensors)
            moments = [one.to(self._flat.device, non_blocking=True) for one in waiting]
            # torch.optim's own fused kernel, called itself for the sake of ``found_inf``.
            torch._fused_adamw_(
                [weight], [gradient], [moments[0]], [moments[1]], [], [self._steps],
                lr=learning_rate, beta1=BETAS[0], beta2=BETAS[1],
                weight_decay=weight_decay, eps=EPSILON, amsgrad=False, maximize=False,
                grad_scale=None, found_inf=skip,
            )  # fmt: skip
            if self._on_host:
                for host, moment in zip(waiting, moments, strict=True):
                    host.copy_(moment, non_blocking=True)
        self._steps -= skip[0]

    def restore(
        self, *, steps: int, exp_avg: Mapping[str, Tensor], exp_avg_sq: Mapping[str, Tensor]
    ) -> None:
        """Take over the moments as they were after ``steps`` updates (skipped ones left out)."""
        for name in self.exp_avg:
            self.exp_avg[name].copy_(exp_avg[name])
            self.exp_avg_sq[name].copy_(exp_avg_sq[name])
        self._steps.fill_(steps)

    def _parts(self) -> Iterator[tuple[slice, float]]:
        """What is updated at a time, with its weight decay."""
        size = CHUNK if self._on_host else self._flat.numel()
        spans = (0, self._decayed, self._weight_decay), (self._decayed, self._flat.numel(), 0.0)
        for begin, end, weight_decay in spans:
            for start in range(begin, end, size):
                yield slice(start, min(start + size, end)), weight_decay

    def _zeros(self, *, on_host: bool) -> Tensor:
        if on_host and self._flat.is_cuda:
            return torch.zeros(self._flat.shape, dtype=torch.float32, pin_memory=True)
        return torch.zeros_like(self._flat)

    def _gradient(self) -> Tensor:
        gradient = self._flat.grad
        assert gradient is not None
        return gradient


def _views(moments: Tensor, flat: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The places in ``moments`` that the weights have in ``flat``."""
    start = flat.storage_offset()
    return {
        name: moments.as_strided(weight.size(), weight.stride(), weight.storage_offset() - start)
        for name, weight in weights.items()
    }
