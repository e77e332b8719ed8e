"""The starter on a real tree on a GPU: repotune against transformers + peft, loss by loss.

    python benchmarks/learn_gpu.py

One epoch over the installed `transformers` package in rows of 2,048 tokens, 4 rows a step, the same
rows in the same order, LoRA r16 on all seven linears that begins with the same numbers, AdamW at a
constant 2e-4, gradients clipped at 1; nothing recomputed, bf16, adapters in fp32. Prints one JSON
line a contestant; the time is that of all steps, the first ones included.
"""

import argparse
import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from bench_train import prepare
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from repotune.kernels import fastest_ops
from repotune.model import Decoder, open_weights, resolve_model
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, Policy, Row
from repotune.tokens import load_tokenizer
from repotune.training.optimizer import AdamW

BATCH, LENGTH, RATE = 4, 2048, 2e-4
CUDA = torch.device("cuda")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="scratch folder")
    parser.add_argument("--steps", type=int, help="instead of one epoch")
    args = parser.parse_args()
    folder, _ = prepare(args.work)
    rows, tree_bytes = rows_of_a_tree()
    steps = args.steps or len(rows) // BATCH
    batches = rows[: steps * BATCH].reshape(steps, BATCH, LENGTH)
    model = adapted(folder)
    adapter = {
        name.removeprefix("base_model.model.").replace(".default.", "."): value.detach().clone()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    theirs = theirs_on(model, batches)
    del model
    torch.cuda.empty_cache()
    ours = ours_on(folder, adapter, batches)
    facts = {"tree_mb": round(tree_bytes / 1e6, 1), "tokens": batches.size, "steps": steps}
    for system, (seconds, losses, norms) in {
        "repotune": ours,
        "transformers + peft": theirs,
    }.items():
        result = {"seconds": round(seconds, 2), "tokens_per_second": round(batches.size / seconds)}
        figures = {"losses": losses, "grad_norms": norms}
        print(json.dumps({"system": system, **facts, **result, **figures}), flush=True)


def rows_of_a_tree():
    tree = Path(find_spec("transformers").submodule_search_locations[0])
    ref = resolve_model("starter", revision=None, offline=True, cache=None, emit=lambda e: None)
    tokenizer = load_tokenizer(Path(ref.path))
    texts = [file.read_text("utf-8") for file in sorted(tree.rglob("*.py"))]
    ids = np.concatenate([tokenizer.encode(text) for text in texts]).astype(np.int64)
    rows = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order], sum(len(text.encode()) for text in texts)


def adapted(folder):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(CUDA)
    model.config.use_cache = False
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=list(LINEAR_MODULES))
    return get_peft_model(model, lora)


def theirs_on(model, batches):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)

    def step(batch):
        input_ids = torch.from_numpy(batch).to(CUDA)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), norm

    return timed(step, batches)


def ours_on(folder, adapter, batches):
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)
    ops, _ = fastest_ops(CUDA, torch.bfloat16)
    decoder = Decoder(
        open_weights(ref),
        lora=LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES),
        dtype=torch.bfloat16, device=CUDA, ops=ops,
    )  # fmt: skip
    for name, tensor in decoder.lora_state().items():
        tensor.copy_(adapter[name])
    decoder.refresh()
    optimizer = AdamW(decoder.lora_flat(), decoder.lora_state(), weight_decay=0.0)
    policy = Policy(layers=(LayerPolicy(saving="all"),) * len(decoder.layers), reason="")
    targets = BATCH * (LENGTH - 1)

    def step(batch):
        labels = np.full_like(batch, IGNORE)
        labels[:, :-1] = batch[:, 1:]
        row = Row(
            input_ids=batch.reshape(-1), labels=labels.reshape(-1),
            starts=np.arange(0, batch.size, LENGTH),
        )  # fmt: skip
        optimizer.zero_grad()
        loss = decoder.loss_and_grad(row, scale=1 / targets, policy=policy, dropout_seed=None)
        norm = optimizer.clip(1.0)
        optimizer.step(RATE, figures=torch.stack([loss, norm]))
        decoder.refresh()
        return loss / targets, norm

    return timed(step, batches)


def timed(step, batches):
    torch.cuda.synchronize()
    started = time.perf_counter()
    results = [step(batch) for batch in batches]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    losses, norms = (torch.stack(one).float().tolist() for one in zip(*results, strict=True))
    return seconds, [round(x, 4) for x in losses], [round(x, 4) for x in norms]


if __name__ == "__main__":
    main()
