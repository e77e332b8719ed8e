"""Training steps of the GPU engine on the shapes of known models with random weights; JSON lines.

    python benchmarks/engine_gpu.py 4x2048:all 4x2048:all*16+outputs*16 4x2048:outputs/host:docs=700
    python benchmarks/engine_gpu.py @benchmarks/accuracy_settings.txt

A setting is BATCHxLENGTH:POLICY with, after colons, any of docs=MEAN, cap=GIB, bf16, r=RANK, adam
(its moments in host memory) and model=ID (CodeLlama-7B where there is none); a policy is what each
layer saves, ``/host`` where it waits in host memory. One step is forward, backward and AdamW on
fresh random ids, timed by CUDA events; the median of the steps after the warm-up counts.
``reserved`` is the allocator's peak, ``device`` what the card shows.
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from repotune.kernels import fastest_ops
from repotune.model import Decoder
from repotune.model.weights import tensor_shapes
from repotune.records import (
    IGNORE,
    LINEAR_MODULES,
    LayerPolicy,
    LoraSpec,
    Policy,
    Row,
)
from repotune.tables import known_model
from repotune.training.optimizer import AdamW

GIB = 2**30
CODELLAMA_7B = "codellama/CodeLlama-7b-hf"


@dataclass(frozen=True)
class Setting:
    """What is measured, of which ``decoder`` names what has to be loaded anew."""

    batch: int
    length: int
    policy: str
    docs: int = 0
    cap: float = math.inf
    bf16: bool = False
    r: int = 16
    adam: bool = False
    model: str = CODELLAMA_7B

    @property
    def decoder(self):
        return self.model, self.r, self.bf16


def read_setting(text):
    size, policy, *options = text.split(":")
    batch, length = map(int, size.split("x"))
    known = dict(one.partition("=")[::2] for one in options)
    return Setting(
        batch=batch, length=length, policy=policy, docs=int(known.get("docs", 0)),
        cap=float(known.get("cap", math.inf)), bf16="bf16" in known, r=int(known.get("r", 16)),
        adam="adam" in known, model=known.get("model", CODELLAMA_7B),
    )  # fmt: skip


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
    for text in args.settings:
        setting = read_setting(text)
        if setting.decoder != loaded:
            started, decoder = time.perf_counter(), None
            torch.cuda.empty_cache()
            decoder, loaded = make_decoder(*setting.decoder), setting.decoder
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
        print(json.dumps({"system": "repotune", "setting": text, **result}), flush=True)
        if args.profile:
            show_profile(decoder, setting)


def make_decoder(model, r, bf16):
    device = torch.device("cuda")
    ops, note = fastest_ops(device, torch.bfloat16)
    assert note is None, note
    decoder = Decoder(
        RandomWeights(known_model(model).shape),
        lora=LoraSpec(r=r, alpha=2.0 * r, dropout=0.0, target_modules=LINEAR_MODULES),
        dtype=torch.bfloat16, device=device, ops=ops, use_4bit=not bf16,
    )  # fmt: skip
    # With B = 0 half of the gradients would be zero, and zero gradients look fast.
    decoder.lora_flat().add_(torch.randn_like(decoder.lora_flat()) * 1e-3)
    decoder.refresh()
    torch.cuda.synchronize()
    return decoder


def policy_of(setting, layer_count):
    """``all*16+outputs/host*16``: from the first layer to the last; no number: all layers."""
    layers = []
    for part in setting.policy.split("+"):
        what, _, count = part.partition("*")
        saving, _, place = what.partition("/")
        one = LayerPolicy(saving=saving, offloaded=place == "host")
        layers += [one] * int(count or layer_count)
    return Policy(layers=tuple(layers), reason="", optimizer_offloaded=setting.adam)


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
    rng, policy = np.random.default_rng(0), policy_of(setting, len(decoder.layers))
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
    return {
        "tokens_per_second": round(tokens / statistics.median(milliseconds) * 1e3, 1),
        "step_ms": [round(one, 2) for one in milliseconds],
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
        "device_gib": round((total - free) / GIB, 3),
        "warm_s": round(warm_seconds, 1),
        "losses": [round(one, 4) for one in losses],
        "grad_norms": [round(one, 4) for one in norms],
    }


def show_profile(decoder, setting):
    from torch.profiler import ProfilerActivity, profile

    row = random_row(np.random.default_rng(0), setting, decoder.shape.vocab_size)
    policy = policy_of(setting, len(decoder.layers))
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        decoder.loss_and_grad(row, scale=1 / len(row.input_ids), policy=policy, dropout_seed=None)
        torch.cuda.synchronize()
    kernels = sorted(profiled.key_averages(), key=lambda one: -one.self_device_time_total)
    print(f"  {sum(one.self_device_time_total for one in kernels) / 1e3:8.2f} ms in all")
    for one in kernels[:24]:
        print(f"  {one.self_device_time_total / 1e3:8.2f} ms {one.count:5d} {one.key[:90]}")


if __name__ == "__main__":
    main()
