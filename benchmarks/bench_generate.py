"""Greedy completions per second: our batches against one prompt at a time in transformers.

    python benchmarks/bench_generate.py                  # 8 minutes of a CPU
    python benchmarks/bench_generate.py --device cuda    # one minute, a JSON line a contestant

The starter model, saved once as safetensors; the same prompts of code of the standard library,
of 24 to 400 tokens, each gone on from by 32 new tokens; bf16, the same threads. transformers runs
in bf16 and in fp32, and the faster one counts. Each measurement is a process of its own (load, one
prompt as a warm-up, all prompts timed); the contestants take turns, and the medians count.
``agree`` is the share of new ids that equal transformers' in fp32 before the first difference of
their prompt: in bf16 nearly equal choices go either way.

With ``--device`` all run in one process, in bf16: ours with and without recorded steps,
transformers with all prompts at once (padded on the left), and one prompt at a time, which is
asked a few of the prompts only. Of ours the second run counts, recording included. cuDNN's
attention, which builds a plan for each new length, is kept from transformers too, which is in its
favour.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from bench_train import prepare

from repotune.kernels import fastest_ops
from repotune.model import Decoder, generate_batch, open_weights, resolve_model
from repotune.model.generate import ON_GPU
from repotune.model.starter import starter_path
from repotune.records import LINEAR_MODULES, LoraSpec
from repotune.tokens import load_tokenizer

HERE = Path(__file__).parent
NEW_TOKENS, PROMPTS = 32, 32
GPU_NEW_TOKENS, GPU_PROMPTS, ONE_BY_ONE = 64, 164, 6
CPU = torch.device("cpu")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CONTESTANTS = ("repotune bf16", "repotune fp32", "transformers bf16", "transformers fp32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="scratch folder")
    parser.add_argument("--one", choices=CONTESTANTS, help="measure this one, in this process")
    parser.add_argument("--device", type=torch.device, help="compare all in this process, there")
    parser.add_argument("--model", type=Path, help="a folder instead of the starter; --device only")
    args = parser.parse_args()
    if args.device:
        if args.model is None:
            prepare(args.work)
        compare(args.model or args.work / "starter", args.device)
        return
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


def compare(folder: Path, device: torch.device) -> None:
    """Print what each does with the same prompts on ``device``, and whether they agree."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    facts = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **{name: version(name) for name in ("torch", "transformers")},
    }
    vocabulary = json.loads((folder / "config.json").read_text("utf-8"))["vocab_size"]
    asked, new = [ids % vocabulary for ids in prompts(GPU_PROMPTS)], GPU_NEW_TOKENS
    few = asked[:ONE_BY_ONE]
    exact = theirs(folder, torch.float32, device, new)(few)
    found = {}

    def report(name: str, write_on, some: list[np.ndarray], warm) -> None:
        write_on(warm)
        started = time.perf_counter()
        ids = found[name] = write_on(some)
        seconds, each = time.perf_counter() - started, len(ids[0])
        reference = [one[:each] for one in exact]
        figures = {
            "prompts": len(some), "new_tokens": each, "seconds": round(seconds, 3),
            "tokens_per_second": round(len(some) * each / seconds, 1),
            "agree": round(agreement(ids[:ONE_BY_ONE], reference), 3),
        }  # fmt: skip
        print(json.dumps({"contestant": name, **figures, **facts}), flush=True)

    for recorded in (False, True):
        pace = replace(ON_GPU, recorded=recorded and device.type == "cuda")
        name = f"repotune, {'recorded' if recorded else 'plain'} steps"
        report(name, ours(folder, torch.bfloat16, device, new, pace), asked, asked)
        report(f"{name}, in fp32", ours(folder, torch.float32, device, new, pace), few, few)
    report("repotune, the prompts alone", ours(folder, torch.bfloat16, device, 1), asked, asked)
    all_at_once = theirs(folder, torch.bfloat16, device, new, at_once=GPU_PROMPTS)
    report("transformers, all prompts at once", all_at_once, asked, few[:1])
    one_by_one = theirs(folder, torch.bfloat16, device, new)
    report("transformers, one prompt at a time", one_by_one, few, few[:1])
    plain, recorded = found["repotune, plain steps"], found["repotune, recorded steps"]
    print(json.dumps({"recorded steps write the same tokens": plain == recorded}))


def prompts(count: int = PROMPTS) -> list[np.ndarray]:
    """Beginnings of passages in files, as an editor sends them."""
    tokenizer = load_tokenizer(starter_path())
    generator = np.random.default_rng(0)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found = []
    for file in files[:: len(files) // count][:count]:
        length = int(generator.integers(24, 400))
        found.append(tokenizer.encode(file.read_text("utf-8"))[:length])
    return found


def ours(folder: Path, dtype: torch.dtype, device=CPU, new_tokens=NEW_TOKENS, pace=None):
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)
    lora = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
    ops, _ = fastest_ops(device, dtype)
    decoder = Decoder(open_weights(ref), lora=lora, dtype=dtype, device=device, ops=ops)
    return lambda asked: generate_batch(
        decoder, asked, max_new_tokens=new_tokens, stop=lambda one, new: False, adapted=False,
        pace=pace,
    )  # fmt: skip


def theirs(folder: Path, dtype: torch.dtype, device=CPU, new_tokens=NEW_TOKENS, at_once=1):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)

    def write_on(asked):
        found = []
        for start in range(0, len(asked), at_once):
            some = asked[start : start + at_once]
            longest = max(map(len, some))
            ids = torch.tensor(np.stack([np.pad(one, (longest - len(one), 0)) for one in some]))
            seen = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in some])
            new = model.generate(
                ids.to(device), attention_mask=seen.to(device), max_new_tokens=new_tokens,
                do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            found += new[:, longest:].tolist()
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
