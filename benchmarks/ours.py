"""Training steps of repotune's engine alone, on rows that are given; prints one JSON line.

    python benchmarks/ours.py --model FOLDER --data ROWS.npy --steps 2

The counterpart of ``hf_baseline.py``: the same model folder, rows, LoRA and optimizer.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from repotune.model import Decoder, open_weights, resolve_model
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, Policy, Row

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=2, help="the first is the warm-up")
    args = parser.parse_args()
    ref = resolve_model(args.model, revision=None, offline=True, cache=None, emit=lambda e: None)
    lora = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
    decoder = Decoder(open_weights(ref), lora=lora, dtype=torch.bfloat16)
    rows = [as_row(ids) for ids in np.load(args.data)]
    optimizer = torch.optim.AdamW([decoder.lora_flat()], lr=2e-4, weight_decay=0.0, fused=True)
    policy = Policy(layers=(LayerPolicy(saving="all"),) * len(decoder.layers), reason="")
    seconds, losses, norms = [], [], []
    for step in range(args.steps):
        batch = [rows[(step * BATCH + i) % len(rows)] for i in range(BATCH)]
        started = time.perf_counter()
        loss, norm = train_step(decoder, optimizer, batch, policy)
        seconds.append(time.perf_counter() - started)
        losses.append(loss)
        norms.append(norm)
    timed = seconds[1:]
    result = {
        "mode": "repotune",
        "step_seconds": timed,
        "tokens_per_second": BATCH * len(rows[0].input_ids) / float(np.median(timed)),
        "peak_rss_bytes": peak_rss_bytes(),
        "losses": losses,
        "grad_norms": norms,
    }
    print(json.dumps(result))


def as_row(ids: np.ndarray) -> Row:
    labels = np.append(ids[1:], IGNORE)
    return Row(input_ids=ids, labels=labels, starts=np.array([0]))


def train_step(decoder, optimizer, rows, policy):
    decoder.lora_flat().grad.zero_()
    targets = sum(int((row.labels != IGNORE).sum()) for row in rows)
    total = sum(
        float(decoder.loss_and_grad(row, scale=1 / targets, policy=policy, dropout_seed=None))
        for row in rows
    )
    norm = torch.nn.utils.clip_grad_norm_([decoder.lora_flat()], 1.0)
    optimizer.step()
    decoder.refresh()
    return total / targets, float(norm)


def peak_rss_bytes() -> int:
    """The process's own high-water mark."""
    memory = psutil.Process().memory_info()
    if psutil.WINDOWS:
        return int(memory.peak_wset)
    import resource  # not on Windows

    scale = 1 if psutil.MACOS else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


if __name__ == "__main__":
    main()
