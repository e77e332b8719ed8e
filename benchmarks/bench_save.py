"""How long saves keep a training waiting, of the state of CodeLlama-7B with LoRA r16; Markdown.

    python benchmarks/bench_save.py [cpu|cuda] [FOLDER]

Random numbers of the right shapes (480 MB: weights and two moments in fp32), saved four times into
a folder that is removed afterwards. *stall* is what the training waits for the copy; *gap* the
longest time in which a busy thread got no turn while the save was written, *idle gap* the longest
in as many seconds without a save: what other programs on the machine take.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from repotune.events import CheckpointSaved
from repotune.training.checkpoint import Checkpoint
from repotune.training.saver import Saver

LAYERS, WIDTH, INNER, RANK = 32, 4096, 11008, 16
SIZES = {
    **{f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"},
    "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip
SAVES = 4


def main():
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        measure(Path(folder), device)


def measure(folder, device):
    state = training_state(device)
    events = []
    began = time.perf_counter()
    saver = Saver(
        folder, state, saves=SAVES, keeps_best=False, emit=events.append, pause=lambda: False
    )
    ready = time.perf_counter() - began
    megabytes = 3 * sum(one.nbytes for one in state.lora.values()) / 1e6
    name = torch.cuda.get_device_name() if device == "cuda" else "a processor"
    print(f"{megabytes:.0f} MB on {name}; ready after {ready:.2f} s\n")
    print("| save | stall, s | gap, s | idle gap, s | written in, s |\n|---|---|---|---|---|")
    for step in range(1, SAVES + 1):
        began = time.perf_counter()
        saver.begin(replace(state, step=step), learned=True)
        stall = time.perf_counter() - began

        def is_saved(step=step):
            saver.tell()
            return any(isinstance(one, CheckpointSaved) and one.step == step for one in events)

        began = time.perf_counter()
        gap = longest_gap(is_saved)
        until = 2 * time.perf_counter() - began
        idle = longest_gap(lambda until=until: time.perf_counter() > until)
        seconds = events[-1].seconds
        print(f"| {step} | {stall:.3f} | {gap:.3f} | {idle:.3f} | {seconds:.2f} |", flush=True)


def longest_gap(is_over):
    """Of a thread that would always run, seconds."""
    longest, last = 0.0, time.perf_counter()
    while not is_over():
        for _ in range(1000):
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    return longest


def training_state(device):
    lora, moments = {}, ({}, {})
    for layer in range(LAYERS):
        for name, (rows, columns) in SIZES.items():
            for which, size in (("A", (RANK, columns)), ("B", (rows, RANK))):
                key = f"model.layers.{layer}.{name}.lora_{which}.weight"
                lora[key] = torch.randn(size, device=device)
                for one in moments:
                    one[key] = torch.randn(size, device=device)
    return Checkpoint(
        step=0, cursor=0, seed=0, fingerprint="", tokens=0, first_loss=1.0, last_loss=1.0,
        lora=lora, exp_avg=moments[0], exp_avg_sq=moments[1],
    )  # fmt: skip


if __name__ == "__main__":
    main()
