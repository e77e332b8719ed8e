"""Training steps of the GPU engine on CodeLlama-7B's shape with random weights; JSON lines.

    python benchmarks/engine_gpu.py 4x2048:all 4x2048:all*16+outputs*16 4x2048:outputs/host:docs=700

A setting is BATCHxLENGTH:POLICY[:docs=MEAN][:cap=GIB][:bf16]; a policy is what each layer saves,
``/host`` where it waits in host memory. One step is forward, backward and AdamW on fresh random
ids, timed by CUDA events; the median of the steps after the warm-up counts. ``reserved`` is the
allocator's peak, ``device`` what the card shows.
"""

import argparse
import json
import math
import statistics
import sys
import time

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
    Shape,
)
from repotune.training.optimizer import AdamW

GIB = 2**30
CODELLAMA_7B = Shape(
    model_type="llama", vocab_size=32016, hidden_size=4096, intermediate_size=11008,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, head_dim=128,
    rms_norm_eps=1e-5, rope_theta=1e6, rope_scaling=None, max_position_embeddings=16384,
    tie_word_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
)  # fmt: skip
LORA = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="also the time by kernel")
    args = parser.parse_args()
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    started = time.perf_counter()
    decoder = make_decoder(use_4bit="bf16" not in args.settings[0])
    print(f"loaded in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    for setting in args.settings:
        size, policy, *options = setting.split(":")
        batch, length = map(int, size.split("x"))
        known = dict(one.partition("=")[::2] for one in options)
        cap = float(known.get("cap", math.inf))
        decoder.release()
        torch.cuda.empty_cache()
        if cap < math.inf:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(cap * GIB / total)
        try:
            result = measure(decoder, batch, length, parse(policy), int(known.get("docs", 0)), args)
        except torch.OutOfMemoryError as error:
            result = {"out_of_memory": str(error)[:200]}
        torch.cuda.set_per_process_memory_fraction(1.0)
        print(json.dumps({"system": "repotune", "setting": setting, **result}), flush=True)
        if args.profile:
            show_profile(decoder, batch, length, parse(policy), int(known.get("docs", 0)))


def make_decoder(*, use_4bit):
    device = torch.device("cuda")
    ops, note = fastest_ops(device, torch.bfloat16)
    assert note is None, note
    decoder = Decoder(
        RandomWeights(CODELLAMA_7B), lora=LORA, dtype=torch.bfloat16, device=device, ops=ops,
        use_4bit=use_4bit,
    )  # fmt: skip
    # With B = 0 half of the gradients would be zero, and zero gradients look fast.
    decoder.lora_flat().add_(torch.randn_like(decoder.lora_flat()) * 1e-3)
    decoder.refresh()
    torch.cuda.synchronize()
    return decoder


def parse(text):
    """``all*16+outputs/host*16``: from the first layer to the last; no number: all layers."""
    layers = []
    for part in text.split("+"):
        what, _, count = part.partition("*")
        saving, _, place = what.partition("/")
        one = LayerPolicy(saving=saving, offloaded=place == "host")
        layers += [one] * int(count or CODELLAMA_7B.num_hidden_layers)
    return Policy(layers=tuple(layers), reason="")


def random_row(rng, batch, length, mean_document):
    """Random ids; with ``mean_document``, documents of such a mean length packed into each row."""
    ids = rng.integers(0, CODELLAMA_7B.vocab_size, batch * length)
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


def measure(decoder, batch, length, policy, mean_document, args):
    rng = np.random.default_rng(0)
    optimizer = AdamW(decoder.lora_flat(), decoder.lora_state(), weight_decay=0.0)
    torch.cuda.reset_peak_memory_stats()
    tokens, losses, norms, events = batch * length, [], [], []
    first = time.perf_counter()
    for step in range(args.warm + args.steps + 1):
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        events.append(event)
        if step == args.warm:
            torch.cuda.synchronize()
            warm_seconds = time.perf_counter() - first
        row = random_row(rng, batch, length, mean_document)
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


def show_profile(decoder, batch, length, policy, mean_document):
    from torch.profiler import ProfilerActivity, profile

    row = random_row(np.random.default_rng(0), batch, length, mean_document)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        decoder.loss_and_grad(row, scale=1 / len(row.input_ids), policy=policy, dropout_seed=None)
        torch.cuda.synchronize()
    kernels = sorted(profiled.key_averages(), key=lambda one: -one.self_device_time_total)
    print(f"  {sum(one.self_device_time_total for one in kernels) / 1e3:8.2f} ms in all")
    for one in kernels[:24]:
        print(f"  {one.self_device_time_total / 1e3:8.2f} ms {one.count:5d} {one.key[:90]}")


if __name__ == "__main__":
    main()
