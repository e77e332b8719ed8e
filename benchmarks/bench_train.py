"""Tokens/s and peak memory of a training step: repotune, transformers' Trainer, a plain loop.

    make bench

The starter model is saved once as safetensors, and all load that; the same 8 rows of 512 tokens of
Python code a step, LoRA r16 on all seven linears, bf16, no recompute, the same threads. Each
measurement is a process of its own (load, one warm-up step, one timed step), the contestants take
turns for ``--rounds`` rounds, and the median over the rounds counts.
"""

import argparse
import json
import platform
import subprocess
import sys
import sysconfig
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from repotune.model import open_weights, read_shape, resolve_model
from repotune.tokens import load_tokenizer

HERE = Path(__file__).parent
ROWS, LENGTH = 32, 512
CONTESTANTS = {
    "repotune": ["ours.py"],
    "plain loop, fp32 adapters": ["hf_baseline.py", "--mode", "loop", "--adapter-dtype", "fp32"],
    "plain loop, bf16 adapters": ["hf_baseline.py", "--mode", "loop", "--adapter-dtype", "bf16"],
    "Trainer, fp32 adapters": ["hf_baseline.py", "--mode", "trainer", "--adapter-dtype", "fp32"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="scratch folder")
    args = parser.parse_args()
    model, data = prepare(args.work)
    results: dict[str, list[dict]] = {name: [] for name in CONTESTANTS}
    for round_ in range(args.rounds):
        for name, command in CONTESTANTS.items():
            results[name].append(measure(command, model, data))
            print(f"round {round_ + 1}, {name}: {summary(results[name][-1:])}", file=sys.stderr)
    write(results)


def prepare(work: Path) -> tuple[Path, Path]:
    """The starter in Hugging Face layout, and rows of the standard library's code."""
    work.mkdir(exist_ok=True)
    model, data = work / "starter", work / "rows.npy"
    ref = resolve_model("starter", revision=None, offline=True, cache=None, emit=lambda e: None)
    if not (model / "config.json").exists():
        model.mkdir(exist_ok=True)
        source = open_weights(ref)
        tensors = {name: source.read(name).to(torch.bfloat16) for name in source.names()}
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        (model / "config.json").write_text(json.dumps(hf_config(read_shape(ref)), indent=2))
    if not data.exists():
        tokenizer = load_tokenizer(Path(ref.path))
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        ids = np.concatenate([tokenizer.encode(f.read_text("utf-8")) for f in files[:120]])
        np.save(data, ids[: ROWS * LENGTH].reshape(ROWS, LENGTH).astype(np.int64))
    return model, data


def hf_config(shape) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        **{
            name: getattr(shape, name)
            for name in (
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps",
                "max_position_embeddings", "tie_word_embeddings",
            )
        },
    }  # fmt: skip


def measure(command: list[str], model: Path, data: Path) -> dict:
    script, *options = command
    arguments = ["--model", str(model), "--data", str(data), "--steps", "2", *options]
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[dict]) -> str:
    speed = np.median([run["tokens_per_second"] for run in runs])
    memory = np.median([run["peak_rss_bytes"] for run in runs]) / 2**30
    return f"{speed:,.0f} tokens/s, {memory:.2f} GiB"


def write(results: dict[str, list[dict]]) -> None:
    facts = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "repotune")},
    }
    path = HERE / "results" / "train-cpu.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = [
        json.dumps({"contestant": name, "round": i + 1, **run, **facts})
        for name, runs in results.items()
        for i, run in enumerate(runs)
    ]
    path.write_text("\n".join(lines) + "\n")
    for name, runs in results.items():
        print(f"{name:28} {summary(runs)}")
    rate = {n: np.median([r["tokens_per_second"] for r in runs]) for n, runs in results.items()}
    memory = {n: np.median([r["peak_rss_bytes"] for r in runs]) for n, runs in results.items()}
    ours, others = "repotune", [name for name in results if name != "repotune"]
    print(f"tokens/s: {rate[ours] / max(rate[n] for n in others):.2f}x the fastest other")
    print(f"memory: {memory[ours] / min(memory[n] for n in others):.2f}x the smallest other")


if __name__ == "__main__":
    main()
