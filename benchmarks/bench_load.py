"""Loading CodeLlama-7B's shape in 4 bits: seconds and memory, the first time and from the cache.

    python benchmarks/bench_load.py
    python benchmarks/bench_load.py --layers 2 --keep

Each load is a process of its own and a JSON line. Host memory is anonymous and pinned memory above
what the imports took, page cache apart; ``beyond`` is its peak less what stays: on a processor the
4-bit weights themselves stay in it. Linux only.
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from settings import CODELLAMA_7B

GIB = 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, help="instead of the model's 32")
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="scratch folder")
    parser.add_argument("--keep", action="store_true", help="the model, for the next time")
    parser.add_argument("--load", nargs=2, type=Path, metavar=("MODEL", "CACHE"), help="only load")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(*args.load)), flush=True)
        return
    model = write(args.work, args.layers)
    with tempfile.TemporaryDirectory(dir=args.work) as cache:
        for what in ("read and quantised", "from the cache"):
            command = [sys.executable, __file__, "--load", model, cache]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            print(json.dumps({"what": what, **json.loads(done.stdout)}), flush=True)
    if not args.keep:
        shutil.rmtree(model)


def write(work, layers):
    from random_model import write_model

    from repotune.tables import known_model

    shape = known_model(CODELLAMA_7B).shape
    folder = work / CODELLAMA_7B.split("/")[-1]
    if layers:
        shape = dataclasses.replace(shape, num_hidden_layers=layers)
        folder = work / f"{folder.name}-{layers}-layers"
    write_model(folder, shape)
    return folder


def load(model, cache):
    import torch

    from repotune.kernels import fastest_ops
    from repotune.model import Decoder, QuantisedLayers, open_weights, resolve_model
    from repotune.records import LINEAR_MODULES, LoraSpec

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.init()
        torch.cuda.synchronize()
    ops, _ = fastest_ops(device, torch.bfloat16)
    ref = resolve_model(str(model), revision=None, offline=True, cache=None, emit=lambda e: None)
    lora = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
    with Watched() as host:
        started = time.perf_counter()
        decoder = Decoder(
            open_weights(ref), lora=lora, dtype=torch.bfloat16, device=device, ops=ops,
            use_4bit=True, quantised=QuantisedLayers(cache, print),
        )  # fmt: skip
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    figures = {"device": device.type, "layers": len(decoder.layers), "seconds": round(seconds, 1)}
    figures |= {"host_peak_gib": gib(host.peak), "beyond_gib": gib(host.peak - host.kept)}
    figures |= {"cache_gib": gib(sum(file.stat().st_size for file in cache.iterdir()))}
    if on_gpu:
        figures["gpu_peak_gib"] = gib(torch.cuda.max_memory_reserved())
        figures["gpu_gib"] = gib(torch.cuda.memory_allocated())
    return figures


class Watched:
    """Anonymous and pinned host memory beyond that at the beginning: its peak, and what is kept."""

    def __enter__(self):
        self.peak, self._before, self._done = 0, host_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.01):
            self.peak = max(self.peak, host_bytes() - self._before)

    def __exit__(self, *failure):
        self._done.set()
        self._thread.join()
        self.kept = host_bytes() - self._before
        self.peak = max(self.peak, self.kept)


def host_bytes():
    """RssAnon, and what is pinned, which is the driver's and counts as no memory of the process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (anonymous,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return anonymous + pinned_bytes()


def pinned_bytes():
    import torch

    if not torch.cuda.is_available():
        return 0
    return torch.cuda.host_memory_stats().get("allocated_bytes.current", 0)


def gib(size):
    return round(size / GIB, 3)


if __name__ == "__main__":
    main()
