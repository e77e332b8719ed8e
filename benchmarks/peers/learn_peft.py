"""What transformers + peft make of a run's own rows, judged by transformers on its held-out files.

    repotune tune TREE --model starter --no-use-4bit -o RUN
    python benchmarks/peers/learn_peft.py RUN

The same rows in the same order, the rank, schedule and clipping of the run, AdamW; base in bf16,
adapter in fp32, documents told apart by their positions. Prints a JSON line for the base, for the
run's adapter as PEFT loads it, and for theirs: bits per byte over all held-out files, each cut into
windows of the run's length, as ``repotune evaluate`` cuts them.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from contest import batch_of
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

sys.path.append(str(Path(__file__).parents[1]))

from bench_train import prepare

from repotune.corpus import read_documents
from repotune.model import resolve_model
from repotune.records import IGNORE
from repotune.runs import open_run
from repotune.tokens import RowStore, load_tokenizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="scratch folder")
    parser.add_argument("--steps", type=int, help="instead of all")
    args = parser.parse_args()
    folder, _ = prepare(args.work)
    run = open_run(args.run)
    config = run.state().config
    heldout = list(encoded(read_documents(run.corpus, "heldout")))
    print_figures("base", base_of(folder), heldout, config)
    ours = PeftModel.from_pretrained(base_of(folder), run.adapter)
    print_figures("repotune", ours, heldout, config)
    model = adapted(folder, config)
    facts = train(model, RowStore(run.tokens), config, args.steps)
    print_figures("transformers + peft", model, heldout, config, **facts)


def base_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(DEVICE)


def adapted(folder, config):
    torch.manual_seed(config["seed"])
    lora = LoraConfig(
        r=config["lora_r"], lora_alpha=config["lora_alpha"],
        target_modules=list(config["target_modules"]),
    )  # fmt: skip
    return get_peft_model(base_of(folder), lora)


def train(model, rows, config, steps):
    size = config["batch_size"] * config["gradient_accumulation_steps"]
    steps = steps or round(config["num_train_epochs"] * len(rows) / size)
    places = [i for epoch in range(2 + steps * size // len(rows))
              for i in rows.order(epoch, config["seed"])]  # fmt: skip
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config["learning_rate"], weight_decay=0.0)
    warmup = round(config["warmup_ratio"] * steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    model.config.use_cache = False
    model.train()
    tokens, started = 0, time.perf_counter()
    for step in range(steps):
        micro = config["batch_size"]
        of_step = [rows[int(i)] for i in places[step * size : (step + 1) * size]]
        targets = sum(int((row.labels != IGNORE).sum()) for row in of_step)
        tokens += targets
        for at in range(0, size, micro):
            summed_loss(model, of_step[at : at + micro]).div(targets).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    seconds = time.perf_counter() - started
    return {"steps": steps, "tokens": tokens, "seconds": round(seconds, 1)}


def summed_loss(model, rows):
    starts = [start + number * len(row.input_ids) for number, row in enumerate(rows)
              for start in row.starts]  # fmt: skip
    one = type(rows[0])(
        input_ids=np.concatenate([row.input_ids for row in rows]),
        labels=np.concatenate([row.labels for row in rows]),
        starts=np.array(starts),
    )
    batch = batch_of(one, len(rows), DEVICE)
    labels = torch.from_numpy(one.labels).view(len(rows), -1).to(DEVICE)
    return nats(model, batch.input_ids, labels, position_ids=batch.position_ids)


def nats(model, input_ids, labels, **more):
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        logits = model(input_ids=input_ids, **more).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def encoded(documents):
    """(ids, bytes that all ids but the first stand for) of each file."""
    ref = resolve_model("starter", revision=None, offline=True, cache=None, emit=lambda e: None)
    tokenizer = load_tokenizer(Path(ref.path))
    for document in documents:
        ids = tokenizer.encode(document.text).astype(np.int64)
        if tokenizer.bytes_of(ids.tolist()) == document.text.encode():
            yield ids, len(tokenizer.bytes_of(ids[1:].tolist()))


def print_figures(system, model, files, config, **facts):
    model.eval()
    length, total = config["max_seq_length"], 0.0
    with torch.no_grad():
        for ids, _ in files:
            for at in range(0, len(ids) - 1, length):
                window = torch.from_numpy(ids[at : at + length + 1]).to(DEVICE)[None]
                total += nats(model, window[:, :-1], window[:, 1:]).item()
    size = sum(scored for _, scored in files)
    figures = {"files": len(files), "bytes": size, "bits_per_byte": total / math.log(2) / size}
    print(json.dumps({"system": system, **figures, **facts}), flush=True)


if __name__ == "__main__":
    main()
