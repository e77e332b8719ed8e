"""A model that learns in microseconds, under the protocol of the decoder, by plain autograd.

One position sees one token: x = E[id], logits = (x + dropout(x) A^T B^T) E^T, with E frozen.
"""

import numpy as np
import torch
from torch.nn import functional

from repotune.records import IGNORE, LayerPolicy, Passes, Policy, Row

VOCAB, WIDTH, RANK, TOKENS = 23, 8, 3, 12
A = "model.layers.0.self_attn.q_proj.lora_A.weight"
B = "model.layers.0.self_attn.q_proj.lora_B.weight"
POLICY = Policy(layers=(LayerPolicy(saving="all"),), reason="")


class TinyModel:
    def __init__(self, *, dropout=0.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(VOCAB, WIDTH, generator=generator)
        self.dropout = dropout
        self.flat, self.masters = flat_views(
            {
                A: torch.randn(RANK, WIDTH, generator=generator) * 0.5,
                B: torch.zeros(WIDTH, RANK),
            }
        )
        self.refresh()

    def lora_state(self):
        return self.masters

    def lora_flat(self):
        return self.flat

    def refresh(self):
        # Copies, as the decoder has: whoever forgets to refresh trains with old weights.
        self.copies = {name: t.clone().requires_grad_() for name, t in self.masters.items()}

    def release(self):
        pass

    def loss_and_grad(self, row, *, scale, policy, dropout_seed, between_layers=lambda: None):
        loss = self.loss(row, dropout_seed)
        gradients = torch.autograd.grad(loss * scale, list(self.copies.values()))
        for tensor, gradient in zip(self.masters.values(), gradients, strict=True):
            tensor.grad += gradient
            between_layers()
        return loss.detach()

    def loss(self, row, dropout_seed=None):
        x = self.embedding[torch.tensor(row.input_ids)]
        dropped = x
        if dropout_seed is not None:
            keep = 1 - self.dropout
            generator = torch.Generator().manual_seed(dropout_seed)
            dropped = x * torch.bernoulli(torch.full_like(x, keep), generator=generator) / keep
        hidden = x + dropped @ self.copies[A].t() @ self.copies[B].t()
        return functional.cross_entropy(
            hidden @ self.embedding.t(),
            torch.tensor(row.labels),
            ignore_index=IGNORE,
            reduction="sum",
        )


def flat_views(tensors):
    """One flat tensor with a gradient, and views of it that hold the tensors' values."""
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    flat.grad = torch.zeros_like(flat)
    sizes = [tensor.numel() for tensor in tensors.values()]
    views = {}
    parts = zip(tensors.items(), flat.split(sizes), flat.grad.split(sizes), strict=True)
    for (name, tensor), value, gradient in parts:
        views[name] = value.view(tensor.shape)
        views[name].grad = gradient.view(tensor.shape)
    return flat, views


class TinyRows:
    """Rows in which ``3 v + 1`` follows token ``v``; the number of targets differs."""

    def __init__(self, count=10):
        self.rows = [tiny_row(index) for index in range(count)]
        self.read = []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.read.append(index)
        return self.rows[index]

    def order(self, epoch, seed):
        return np.random.default_rng((seed, epoch)).permutation(len(self.rows))


def tiny_row(seed):
    ids = np.random.default_rng(seed).integers(0, VOCAB, TOKENS)
    labels = (3 * ids + 1) % VOCAB
    labels[TOKENS - seed % 5 - 1 :] = IGNORE
    return Row(input_ids=ids, labels=labels, starts=np.array([0]))


def settings(checkpoints, *, policy=POLICY, rows_per_pass=1, **changes):
    """All of ``train``'s arguments but the model and the rows."""
    return {
        "passes": Passes(policy=policy, rows=rows_per_pass),
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "steps": 8,
        "learning_rate": 0.05,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.2,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "seed": 7,
        "dropout": False,
        "loss_scale": None,
        "save_steps": 100,
        "checkpoints": checkpoints,
        "fingerprint": "tiny",
        "about": {},
        "resume_from": None,
        "heldout": None,
        "replan": lambda tokens, policy: None,
        "may_cut_rows": False,
        "conditions": lambda: (),
        "emit": lambda event: None,
        "should_stop": lambda: False,
        "pause": lambda: False,
        **changes,
    }
