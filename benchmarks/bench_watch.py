"""What the loop takes beside the steps: watchdogs, metrics, curves, stop, pace; Markdown.

    python benchmarks/bench_watch.py [cpu|cuda] [ROUNDS] [STEPS]

Steps of a model of four layers with random weights, bare and in the loop with all that watches
them, in turns, so that both meet the same machine; tokens/s of each round, medians, and the median
of the rounds' ratios. Each round of the loop has one look at the machine, which is due once a
minute. Then the same work without steps, many times: what it takes by itself.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from repotune.events import StepDone
from repotune.kernels import fastest_ops
from repotune.machine import Peak, slowed_by
from repotune.model import Decoder
from repotune.model.weights import tensor_shapes
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, Passes, Policy, Row
from repotune.tables import known_model
from repotune.training import log_metrics, train
from repotune.training.optimizer import AdamW
from repotune.training.order import SampleOrder
from repotune.training.step import train_step
from repotune.training.watch import watching

LORA = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
LAYERS, BATCH = 4, 2
ALONE = 2000
"""Steps of the second measurement."""


def main():
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    model, rows = small_model(device), RandomRows(256 if device == "cpu" else 2048)
    bare(model, rows, 3)
    found = []
    for _ in range(rounds):
        found.append((bare(model, rows, steps), in_the_loop(model, rows, steps, device)))
    share = 1 - statistics.median(loop / alone for alone, loop in found)
    first, second = (statistics.median(one) for one in zip(*found, strict=True))
    step = BATCH * rows.length / first
    by_itself, look = watching_alone(device)
    print("| | |\n|---|---|")
    print(f"| bare steps, tokens/s ({step * 1e3:.0f} ms a step) | {first:,.0f} |")
    print(f"| in the loop, tokens/s | {second:,.0f} |")
    print(f"| less, by the median of {rounds} rounds | {share:.2%} |")
    print(f"| watching and writing a step by itself | {by_itself * 1e6:.0f} µs |")
    print(f"| of a step here | {by_itself / step:.2%} |")
    print(f"| a look at the machine, once a minute | {look * 1e3:.1f} ms, {look / 60:.3%} |")


def bare(model, rows, steps):
    """Tokens/s from the end of the first step on."""
    optimizer = AdamW(model.lora_flat(), model.lora_state(), weight_decay=0.0)
    order, policy = SampleOrder(rows, seed=0, dropout=False), whole()
    for step in range(steps):
        samples = order.batch(step * BATCH, BATCH)
        train_step(
            model, optimizer, samples, step=step + 1, learning_rate=1e-5, max_grad_norm=1.0,
            policy=policy, rows_per_pass=BATCH, loss_scale=None,
            between_layers=lambda: None, between_passes=lambda: None,
        )  # fmt: skip
        if step == 0:
            began = time.perf_counter()
    return (steps - 1) * BATCH * rows.length / (time.perf_counter() - began)


def in_the_loop(model, rows, steps, device):
    ends = []
    with tempfile.TemporaryDirectory() as name, logged(Path(name), device) as log:

        def tell(event):
            log(event)
            if isinstance(event, StepDone):
                ends.append(time.perf_counter())

        train(
            model, rows, batch_size=BATCH, gradient_accumulation_steps=1,
            passes=Passes(policy=whole(), rows=BATCH), steps=steps, learning_rate=1e-5,
            lr_scheduler_type="constant", warmup_ratio=0.0, weight_decay=0.0, max_grad_norm=1.0,
            seed=0, dropout=False, loss_scale=None, save_steps=steps, checkpoints=Path(name),
            fingerprint="", about={}, resume_from=None, heldout=None,
            replan=lambda tokens, policy: None, may_cut_rows=False,
            conditions=partial(slowed_by, on_gpu=device == "cuda"), emit=tell,
            should_stop=lambda: False, pause=lambda: False,
        )  # fmt: skip
    return (steps - 1) * BATCH * rows.length / (ends[-1] - ends[0])


def logged(folder, device):
    return log_metrics(
        folder / "metrics.jsonl", folder / "tensorboard", reached=0,
        memory=Peak(device).since_last, emit=print, pause=lambda: False,
    )  # fmt: skip


def watching_alone(device):
    """Seconds of a step's watching and writing, and of a look at the machine."""
    conditions = partial(slowed_by, on_gpu=device == "cuda")
    conditions()
    began = time.perf_counter()
    conditions()
    look = time.perf_counter() - began
    event = StepDone(
        step=0, steps=ALONE, loss=1.0, grad_norm=1.0, learning_rate=1e-4, tokens=1,
        seconds=1.0, tokens_per_second=1.0, seconds_left=1.0,
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as name,
        logged(Path(name), device) as tell,
        watching(tell, tuple) as watch,
    ):
        began = time.perf_counter()
        for step in range(ALONE):
            watch.begin()
            tell(replace(event, step=step))
            watch.done(step, event.loss)
        return (time.perf_counter() - began) / ALONE, look


def whole():
    return Policy(layers=(LayerPolicy(saving="all"),) * LAYERS, reason="")


def small_model(device):
    known = known_model("codellama/CodeLlama-7b-hf").shape
    shape = replace(known, num_hidden_layers=LAYERS)
    if device == "cpu":
        shape = replace(
            shape, hidden_size=512, intermediate_size=1408, vocab_size=4096, head_dim=64,
            num_attention_heads=8, num_key_value_heads=8,
        )  # fmt: skip
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    ops, _ = fastest_ops(torch.device(device), dtype)
    return Decoder(RandomWeights(shape), lora=LORA, dtype=dtype, device=device, ops=ops)


class RandomWeights:
    def __init__(self, shape):
        self.shape, self.sizes = shape, tensor_shapes(shape)

    def names(self):
        return self.sizes

    def read(self, name):
        size = self.sizes[name]
        return torch.randn(size) * 0.02 if len(size) == 2 else torch.ones(size)


class RandomRows:
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return 64

    def __getitem__(self, index):
        ids = np.random.default_rng(index).integers(0, 4096, self.length)
        return Row(input_ids=ids, labels=np.append(ids[1:], IGNORE), starts=np.array([0]))

    def order(self, epoch, seed):
        return np.random.default_rng((seed, epoch)).permutation(64)


if __name__ == "__main__":
    main()
