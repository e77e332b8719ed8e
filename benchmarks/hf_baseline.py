"""Training steps of transformers + peft, on rows that are given; prints one JSON line.

    python benchmarks/hf_baseline.py --model FOLDER --data ROWS.npy --mode loop --steps 2

Two ways, as people run it: ``loop`` is a plain PyTorch loop over one batch a step, ``trainer`` is
transformers' Trainer. No recompute; the base model in bf16; adapters in fp32 (PEFT's default for
a bf16 model) or in bf16.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ours import BATCH, peak_rss_bytes
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from repotune.records import LINEAR_MODULES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--mode", choices=("loop", "trainer"), required=True)
    parser.add_argument("--adapter-dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=2, help="the first is the warm-up")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = torch.from_numpy(np.load(args.data))
    run = loop if args.mode == "loop" else trainer
    seconds, losses, norms = run(adapted(args.model, args.adapter_dtype), rows, args.steps)
    result = {
        "mode": f"{args.mode}, {args.adapter_dtype} adapters",
        "step_seconds": seconds[1:],
        "tokens_per_second": BATCH * rows.shape[1] / float(np.median(seconds[1:])),
        "peak_rss_bytes": peak_rss_bytes(),
        "losses": losses,
        "grad_norms": norms,
    }
    print(json.dumps(result))


def adapted(folder: str, adapter_dtype: str):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.config.use_cache = False
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=list(LINEAR_MODULES))
    return get_peft_model(model, lora, autocast_adapter_dtype=adapter_dtype == "fp32")


def batch_of(rows, step):
    index = [(step * BATCH + i) % len(rows) for i in range(BATCH)]
    return rows[index]


def loop(model, rows, steps):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0)
    seconds, losses, norms = [], [], []
    for step in range(steps):
        started = time.perf_counter()
        input_ids = batch_of(rows, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - started)
    return seconds, losses, norms


class Timer(TrainerCallback):
    def __init__(self):
        self.seconds, self.losses, self.norms = [], [], []

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(logs["grad_norm"])


class InOrder(torch.utils.data.IterableDataset):
    """The rows of the batches in their order: the Trainer would shuffle a list."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for batch in self.batches:
            for row in batch:
                yield {"input_ids": row, "labels": row}


def trainer(model, rows, steps):
    timer = Timer()
    batches = [batch_of(rows, step) for step in range(steps)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH, max_steps=steps, bf16=True,
            learning_rate=2e-4, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1,
            save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
            gradient_checkpointing=False, lr_scheduler_type="constant",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=InOrder(batches), callbacks=[timer]).train()
    return timer.seconds, timer.losses, timer.norms


if __name__ == "__main__":
    main()
