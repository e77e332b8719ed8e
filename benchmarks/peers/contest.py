"""What the peers' scripts share: the same rows, steps and figures as ``engine_gpu.py`` has.

A setting is written as there, but the policy is the peer's: ``default`` for its own way of
checkpointing, ``all`` for none, and, where a peer can, ``default*16+all*16`` for some layers.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))

from measuring import GIB, random_row, report, timed
from random_model import write_model
from settings import read_setting

from repotune.records import IGNORE


def parser_of(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("settings", nargs="+", type=read_setting)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument(
        "--checkpoints", type=Path, default=Path(".bench"),
        help="where models with random weights lie, or are written (13.5 GB)",
    )  # fmt: skip
    return parser


def checkpoint(args, setting):
    """The folder of the setting's model, written if it is not there."""
    folder = args.checkpoints / setting.model.split("/")[-1]
    write_model(folder, setting.shape)
    return folder


def contend(system, setting, args, model, loss_of, **facts):
    """Print the figures of training steps with ``loss_of(batch)``, a mean over the targets."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    facts |= {"adapter": str(parameters[0].dtype), "model_gib": allocated_gib()}
    report(system, setting, partial(measured, setting, args, parameters, loss_of), **facts)
    for parameter in parameters:
        parameter.grad = None


def measured(setting, args, parameters, loss_of):
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)

    def step(batch):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = loss_of(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        # Not read here: the card would wait, and the peers' trainers read losses only to log them.
        return loss.detach(), norm

    batches = list(random_batches(setting, args.warm + args.steps + 1))
    return timed(step, batches, warm=args.warm, tokens=setting.batch * setting.length)


def random_batches(setting, count):
    """The rows that ``engine_gpu.py`` takes, in its order, on the GPU before the first step."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield batch_of(random_row(rng, setting, setting.shape.vocab_size), setting.batch, "cuda")


@dataclass(frozen=True)
class Batch:
    """A row as models take it: ids, labels and positions are [batch, length]."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    """Where the ids are, since models shift them; the first of each document is ignored, so that
    none is predicted from the document before it."""
    position_ids: torch.Tensor
    """In the document."""
    lengths: torch.Tensor
    """[documents] int32, on the host."""
    targets: torch.Tensor
    """[] how many labels count."""

    def as_one_row(self):
        """All rows behind each other, [1, batch * length]."""
        flat = (one.view(1, -1) for one in (self.input_ids, self.labels, self.position_ids))
        return Batch(*flat, self.lengths, self.targets)


def batch_of(row, batch, device):
    ids = np.array(row.input_ids)
    labels = ids.copy()
    labels[row.starts] = IGNORE
    lengths = np.diff(np.append(row.starts, len(ids)))
    positions = np.concatenate([np.arange(length) for length in lengths])
    tensors = (torch.from_numpy(one).view(batch, -1).to(device) for one in (ids, labels, positions))
    targets = torch.tensor(int((labels != IGNORE).sum()), device=device)
    return Batch(*tensors, torch.from_numpy(lengths).int(), targets)


def stir(model):
    """With B = 0 half of the gradients would be zero, and zero gradients look fast."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 1e-3)


def allocated_gib():
    return round(torch.cuda.memory_allocated() / GIB, 3)
