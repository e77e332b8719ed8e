"""Greedy completions per second: our batches against one prompt at a time in transformers.

    python benchmarks/bench_generate.py

The starter model, saved once as safetensors; the same prompts of code of the standard library,
of 24 to 400 tokens, each gone on from by 32 new tokens; bf16, the same threads. transformers runs
in bf16 and in fp32, and the faster one counts. Each measurement is a process of its own (load, one
prompt as a warm-up, all prompts timed); the contestants take turns, and the medians count.
``agree`` is the share of new ids that equal transformers' in fp32 before the first difference of
their prompt: in bf16 nearly equal choices go either way.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from bench_train import prepare

from repotune.model import Decoder, generate_batch, open_weights, resolve_model
from repotune.model.starter import starter_path
from repotune.records import LINEAR_MODULES, LoraSpec
from repotune.tokens import load_tokenizer

HERE = Path(__file__).parent
NEW_TOKENS, PROMPTS = 32, 32
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CONTESTANTS = ("repotune bf16", "repotune fp32", "transformers bf16", "transformers fp32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="scratch folder")
    parser.add_argument("--one", choices=CONTESTANTS, help="measure this one, in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.work)))
        return
    prepare(args.work)
    results: dict[str, list[dict]] = {name: [] for name in CONTESTANTS}
    for round_ in range(args.rounds):
        for name in CONTESTANTS:
            results[name].append(in_process(name, args.work))
            rate = results[name][-1]["tokens_per_second"]
            print(f"round {round_ + 1}, {name}: {rate:,.0f} tokens/s", file=sys.stderr)
    write(results)


def in_process(name: str, work: Path) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--work", str(work), "--one", name],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, work: Path) -> dict:
    who, dtype = name.split()
    contestant = ours if who == "repotune" else theirs
    write_on = contestant(work / "starter", DTYPES[dtype])
    asked = prompts()
    write_on(asked[:1])
    started = time.perf_counter()
    ids = write_on(asked)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens_per_second": sum(map(len, ids)) / seconds, "ids": ids}


def prompts() -> list[np.ndarray]:
    """Beginnings of passages in files, as an editor sends them."""
    tokenizer = load_tokenizer(starter_path())
    generator = np.random.default_rng(0)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found = []
    for file in files[:: len(files) // PROMPTS][:PROMPTS]:
        length = int(generator.integers(24, 400))
        found.append(tokenizer.encode(file.read_text("utf-8"))[:length])
    return found


def ours(folder: Path, dtype: torch.dtype):
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)
    lora = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
    decoder = Decoder(open_weights(ref), lora=lora, dtype=dtype)
    return lambda asked: generate_batch(
        decoder, asked, max_new_tokens=NEW_TOKENS, stop=lambda one, new: False, adapted=False
    )


def theirs(folder: Path, dtype: torch.dtype):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def write_on(asked):
        found = []
        for prompt in asked:
            ids = torch.tensor(prompt)[None]
            new = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            found.append(new[0, len(prompt) :].tolist())
        return found

    return write_on


def agreement(ids: list[list[int]], reference: list[list[int]]) -> float:
    same = 0
    for one, other in zip(ids, reference, strict=True):
        differs = [a != b for a, b in zip(one, other, strict=True)]
        same += differs.index(True) if any(differs) else len(one)
    return same / sum(map(len, reference))


def write(results: dict[str, list[dict]]) -> None:
    facts = {
        "date": date.today().isoformat(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "transformers", "repotune")},
    }
    reference = results["transformers fp32"][0]["ids"]
    rates, lines = {}, []
    for name, runs in results.items():
        rates[name] = float(np.median([run["tokens_per_second"] for run in runs]))
        agrees = agreement(runs[0]["ids"], reference)
        print(f"{name:20} {rates[name]:7,.0f} tokens/s, agree {agrees:.1%}")
        for number, run in enumerate(runs, 1):
            del run["ids"]
            lines.append(
                json.dumps({"contestant": name, "round": number, **run, "agree": agrees, **facts})
            )
    path = HERE / "results" / "generate-cpu.jsonl"
    path.write_text("\n".join(lines) + "\n")
    fastest = max(rates[name] for name in CONTESTANTS if name.startswith("transformers"))
    print(f"{rates['repotune bf16'] / fastest:.1f}x the faster transformers")


if __name__ == "__main__":
    main()
