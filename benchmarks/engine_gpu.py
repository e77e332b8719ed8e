"""Training steps of the GPU engine on the shapes of known models with random weights; JSON lines.

    python benchmarks/engine_gpu.py 4x2048:all 4x2048:all*16+outputs*16 4x2048:outputs/host:docs=700
    python benchmarks/engine_gpu.py @benchmarks/accuracy_settings.txt

``settings.py`` says what a setting is. One step is forward, backward and AdamW on fresh random ids,
timed by CUDA events; the median of the steps after the warm-up counts.
``reserved`` is the allocator's peak, ``device`` what the card shows then, with the context.
"""

import argparse
import json
import math
import statistics
import sys
import time

import numpy as np
import torch
from settings import read_setting

from repotune.kernels import fastest_ops
from repotune.model import Decoder
from repotune.model.weights import tensor_shapes
from repotune.records import IGNORE, Row
from repotune.training.optimizer import AdamW

GIB = 2**30


class RandomWeights:
    """Weights as a fresh model has them, made on the GPU tensor by tensor."""

    def __init__(self, shape):
        self.shape, self.sizes = shape, tensor_shapes(shape)
        self.generator = torch.Generator("cuda").manual_seed(0)

    def names(self):
        return self.sizes

    def read(self, name):
        size = self.sizes[name]
        if len(size) == 1:
            return torch.ones(size, dtype=torch.bfloat16, device="cuda")
        values = torch.randn(size, generator=self.generator, device="cuda", dtype=torch.bfloat16)
        return values.mul_(0.02)


def main():
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="also the time by kernel")
    args = parser.parse_args()
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    loaded, decoder = None, None
    for setting in map(read_setting, args.settings):
        wanted = setting.model, setting.r, setting.bf16
        if wanted != loaded:
            started, decoder = time.perf_counter(), None
            torch.cuda.empty_cache()
            decoder, loaded = make_decoder(setting), wanted
            print(f"loaded in {time.perf_counter() - started:.1f} s", file=sys.stderr)
        decoder.release()
        torch.cuda.empty_cache()
        if setting.cap < math.inf:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(setting.cap * GIB / total)
        try:
            result = measure(decoder, setting, args)
        except torch.OutOfMemoryError as error:
            result = {"out_of_memory": str(error)[:200]}
        torch.cuda.set_per_process_memory_fraction(1.0)
        print(json.dumps({"system": "repotune", "setting": setting.text, **result}), flush=True)
        if args.profile:
            show_profile(decoder, setting)


def make_decoder(setting):
    device = torch.device("cuda")
    ops, note = fastest_ops(device, torch.bfloat16)
    assert note is None, note
    decoder = Decoder(
        RandomWeights(setting.shape), lora=setting.lora, dtype=torch.bfloat16, device=device,
        ops=ops, use_4bit=not setting.bf16,
    )  # fmt: skip
    # With B = 0 half of the gradients would be zero, and zero gradients look fast.
    decoder.lora_flat().add_(torch.randn_like(decoder.lora_flat()) * 1e-3)
    decoder.refresh()
    torch.cuda.synchronize()
    return decoder


def random_row(rng, setting, vocab_size):
    """Random ids; with ``docs``, documents of such a mean length packed into each row."""
    batch, length, mean_document = setting.batch, setting.length, setting.docs
    ids = rng.integers(0, vocab_size, batch * length)
    labels = np.append(ids[1:], IGNORE)
    starts = []
    for row in range(batch):
        at = 0
        while at < length:
            starts.append(row * length + at)
            rest = length - at
            at += min(rest, max(16, int(rng.exponential(mean_document)))) if mean_document else rest
    labels[np.array(starts[1:], dtype=int) - 1] = IGNORE
    return Row(input_ids=ids, labels=labels, starts=np.array(starts))


def measure(decoder, setting, args):
    rng, policy = np.random.default_rng(0), setting.policy
    optimizer = AdamW(
        decoder.lora_flat(), decoder.lora_state(), weight_decay=0.0, on_host=setting.adam
    )
    torch.cuda.reset_peak_memory_stats()
    tokens, losses, norms, events = setting.batch * setting.length, [], [], []
    first = time.perf_counter()
    for step in range(args.warm + args.steps + 1):
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        events.append(event)
        if step == args.warm:
            torch.cuda.synchronize()
            warm_seconds = time.perf_counter() - first
        row = random_row(rng, setting, decoder.shape.vocab_size)
        optimizer.zero_grad()
        loss = decoder.loss_and_grad(row, scale=1 / tokens, policy=policy, dropout_seed=None)
        norm = optimizer.clip(1.0)
        optimizer.step(1e-4, figures=torch.stack([loss, norm]))
        decoder.refresh()
        losses.append(float(loss) / tokens)
        norms.append(float(norm))
    torch.cuda.synchronize()
    pairs = list(zip(events[args.warm :], events[args.warm + 1 :], strict=False))
    milliseconds = [before.elapsed_time(after) for before, after in pairs]
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    reserved = torch.cuda.max_memory_reserved()
    return {
        "tokens_per_second": round(tokens / statistics.median(milliseconds) * 1e3, 1),
        "step_ms": [round(one, 2) for one in milliseconds],
        "reserved_gib": round(reserved / GIB, 3),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
        "device_gib": round((reserved + context) / GIB, 3),
        "warm_s": round(warm_seconds, 1),
        "losses": [round(one, 4) for one in losses],
        "grad_norms": [round(one, 4) for one in norms],
    }


def show_profile(decoder, setting):
    from torch.profiler import ProfilerActivity, profile

    row = random_row(np.random.default_rng(0), setting, decoder.shape.vocab_size)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        decoder.loss_and_grad(
            row, scale=1 / len(row.input_ids), policy=setting.policy, dropout_seed=None
        )
        torch.cuda.synchronize()
    kernels = sorted(profiled.key_averages(), key=lambda one: -one.self_device_time_total)
    print(f"  {sum(one.self_device_time_total for one in kernels) / 1e3:8.2f} ms in all")
    for one in kernels[:24]:
        print(f"  {one.self_device_time_total / 1e3:8.2f} ms {one.count:5d} {one.key[:90]}")


if __name__ == "__main__":
    main()
