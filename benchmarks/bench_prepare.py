"""How long the preparation takes: loading the starter, and the standard library to rows.

    python benchmarks/bench_prepare.py

Each is a process of its own, imports included; prints one JSON line each.
"""

import json
import subprocess
import sys
import time

LOAD = """
import torch
from repotune.model import Decoder, open_weights, resolve_model
from repotune.records import LINEAR_MODULES, LoraSpec
ref = resolve_model("starter", revision=None, offline=True, cache=None, emit=lambda e: None)
lora = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
Decoder(open_weights(ref), lora=lora, dtype=torch.bfloat16)
"""
PREPARE = """
import shutil, sysconfig, tempfile
from pathlib import Path
from repotune.corpus import build_corpus, read_documents
from repotune.model import resolve_model
from repotune.tokens import build_rows, load_tokenizer
ref = resolve_model("starter", revision=None, offline=True, cache=None, emit=lambda e: None)
with tempfile.TemporaryDirectory() as folder:
    tree, work = Path(folder) / "stdlib", Path(folder)
    ignored = shutil.ignore_patterns("site-packages", "__pycache__")
    shutil.copytree(sysconfig.get_path("stdlib"), tree, ignore=ignored, symlinks=True)
    import time
    started = time.perf_counter()
    corpus = build_corpus(
        tree, work / "corpus", heldout_share=0.1, seed=42, keep_vendored=False, exclude=(),
        canaries=0, emit=lambda e: None,
    )
    rows = build_rows(
        read_documents(work / "corpus", "train"), load_tokenizer(Path(ref.path)),
        work / "tokens", max_seq_length=2048, fim_rate=0.5, seed=42, emit=lambda e: None,
    )
    seconds = time.perf_counter() - started
print(corpus.files_kept, corpus.bytes_kept, rows.tokens, rows.fill, seconds)
"""
PEAK = """
import resource, sys
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def main() -> None:
    seconds, (peak,) = run(LOAD)
    print(json.dumps({"what": "load the starter", "seconds": seconds, "peak_bytes": int(peak)}))
    _, (line, peak) = run(PREPARE)
    files, size, tokens, fill, seconds = line.split()
    figures = {"files_kept": int(files), "bytes_kept": int(size), "tokens": int(tokens)}
    figures |= {"fill": float(fill), "seconds": float(seconds), "peak_bytes": int(peak)}
    print(json.dumps({"what": "prepare the standard library", **figures}))


def run(code: str) -> tuple[float, list[str]]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + PEAK], check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - started, done.stdout.splitlines()


if __name__ == "__main__":
    main()
