"""The planner's seconds of a row on this CPU, against what the starter takes; a table in Markdown.

    python benchmarks/plan_cpu.py

The machine is calibrated first. Rows of random ids of one document, or of several (``documents``),
which a plan takes to be of about 700 tokens; the least of four passes after one.
"""

import time

import numpy as np
import torch

from repotune.machine import calibrate, precision_here, probe
from repotune.machine.calibrate import for_precision
from repotune.model import Decoder, open_weights, resolve_model
from repotune.planning import Setup
from repotune.planning.rates import cpu_rates
from repotune.planning.speed import step_seconds
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, Policy, Row

CASES = [(256, 1, "all"), (512, 1, "all"), (512, 1, "input"), (1024, 1, "all"), (2048, 3, "all")]
LORA = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)


def main():
    machine = probe()
    precision = precision_here("auto", machine)
    known = for_precision(calibrate("cpu"), precision)
    in_bf16 = precision == "bf16"
    rates = cpu_rates(machine.cores, bf16=in_bf16, calibration=known).expected
    ref = resolve_model("starter", revision=None, offline=True, cache=None, emit=lambda e: None)
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    decoder = Decoder(open_weights(ref), lora=LORA, dtype=dtype)
    print(f"{known.matmul_flops / 1e12:.2f} TFLOP/s in {precision}\n")
    print(
        "| tokens | documents | saving | ms | planned in a run | error |\n|---|---|---|---|---|---|"
    )
    for tokens, documents, saving in CASES:
        policy = Policy(layers=(LayerPolicy(saving=saving),) * len(decoder.layers), reason="")
        seconds = least_seconds(decoder, tokens, documents, policy)
        setup = Setup(
            shape=decoder.shape, lora=LORA, tokens=tokens, itemsize=2 if in_bf16 else 4,
            documents=documents if documents > 1 else None,
        )  # fmt: skip
        planned = step_seconds(setup, policy, rates, row_tokens=tokens).micro_batch
        print(
            f"| {tokens} | {documents} | {saving} | {seconds * 1e3:.0f} | {planned * 1e3:.0f} | "
            f"{planned / seconds - 1:+.1%} |",
            flush=True,
        )


def least_seconds(decoder, tokens, documents, policy):
    ids = np.random.default_rng(0).integers(0, decoder.shape.vocab_size, tokens)
    starts = np.arange(documents) * (tokens // documents)
    row = Row(input_ids=ids, labels=np.append(ids[1:], IGNORE), starts=starts)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        float(decoder.loss_and_grad(row, scale=1e-3, policy=policy, dropout_seed=None))
        times.append(time.perf_counter() - started)
    return min(times[1:])


if __name__ == "__main__":
    main()
