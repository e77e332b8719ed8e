"""Training steps of the GPU engine on the shapes of known models with random weights; JSON lines.

    python benchmarks/engine_gpu.py 4x2048:all 4x2048:all*16+outputs*16 4x2048:outputs/host:docs=700
    python benchmarks/engine_gpu.py @benchmarks/accuracy_settings.txt

``settings.py`` says what a setting is, ``measuring.py`` how it is measured.
"""

import argparse
import sys
import time
from functools import partial

import numpy as np
import torch
from measuring import random_row, report, timed
from settings import read_setting

from repotune.kernels import fastest_ops
from repotune.model import Decoder
from repotune.model.weights import tensor_shapes
from repotune.training.optimizer import AdamW


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
        report("repotune", setting, partial(measure, decoder, setting, args))
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


def measure(decoder, setting, args):
    policy, tokens = setting.policy, setting.batch * setting.length
    optimizer = AdamW(
        decoder.lora_flat(), decoder.lora_state(), weight_decay=0.0, on_host=setting.adam
    )

    def step(row):
        optimizer.zero_grad()
        loss = decoder.loss_and_grad(row, scale=1 / tokens, policy=policy, dropout_seed=None)
        norm = optimizer.clip(1.0)
        optimizer.step(1e-4, figures=torch.stack([loss, norm]))
        decoder.refresh()
        return float(loss) / tokens, float(norm)

    rng = np.random.default_rng(0)
    count = args.warm + args.steps + 1
    rows = (random_row(rng, setting, decoder.shape.vocab_size) for _ in range(count))
    return timed(step, rows, warm=args.warm, tokens=tokens)


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
