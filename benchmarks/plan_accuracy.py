"""The planner against what was measured: peak of GPU memory, and seconds of a step.

    python benchmarks/engine_gpu.py --steps 6 @benchmarks/accuracy_settings.txt > MEASURED
    python benchmarks/plan_accuracy.py MEASURED CALIBRATION    # of `repotune calibrate --json`

The two terms of memory that are not sizes of tensors are fitted here again on half of the settings,
which a seed chooses, and everything is judged on the other half. Prints Markdown.
"""

import json
import math
import random
import statistics
import sys
from itertools import product
from pathlib import Path

from settings import read_setting

from repotune.planning import memory, target
from repotune.planning.rates import gpu_rates
from repotune.planning.setup import widths
from repotune.planning.speed import step_seconds
from repotune.records import Calibration

GIB = 2**30
SEED = 0
SEGMENTS = [n * 2**20 for n in range(0, 201, 20)]
UNMERGED = [n / 5 for n in range(26)]


def main(measured, calibration):
    rows = [json.loads(line) for line in Path(measured).read_text("utf-8").splitlines()]
    known = json.loads(Path(calibration).read_text("utf-8"))
    found = Calibration(
        device="cuda", matmul_flops=known["matmul_flops_per_second"]["bf16"],
        bandwidth=known["memory_bytes_per_second"],
        host_to_device=known["host_to_device_bytes_per_second"],
        launch_seconds=known["launch_seconds"], context_bytes=known["context_bytes"],
        date=known["date"],
    )  # fmt: skip
    rates = gpu_rates(None, found).expected
    context = found.context_bytes + target.LIBRARY_BYTES
    random.Random(SEED).shuffle(rows)
    fitted, judged = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    segments, unmerged = fit(fitted, context)
    print(f"Fitted on {len(fitted)} settings: {segments / 2**20:.0f} MiB and {unmerged} tensors of")
    print(f"the queries' size (the planner has {memory.SEGMENTS / 2**20:.0f} MiB and", end=" ")
    print(f"{memory.UNMERGED}). Judged on the other {len(judged)}:\n")
    print("| setting | GiB on the device | planned | error | ms a step | planned | error |")
    print("|---|---|---|---|---|---|---|")
    errors, times = [], []
    for row in judged:
        setting, gib = read_setting(row["setting"]), row["device_gib"]
        planned = bytes_at(setting, context, segments, unmerged) / GIB
        step = step_seconds(setting.setup, setting.policy, rates, row_tokens=setting.length)
        ms, expected = statistics.median(row["step_ms"]), 1e3 * (step.micro_batch + step.optimizer)
        errors.append(planned / gib - 1)
        times.append(expected / ms - 1)
        print(
            f"| `{setting.text}` | {gib:.2f} | {planned:.2f} | {errors[-1]:+.1%} | {ms:.1f} | "
            f"{expected:.1f} | {times[-1]:+.1%} |"
        )
    print(f"\nMemory: {summary(errors)}. Time: {summary(times)}.")


def fit(rows, context):
    """The two constants with the least sum of squared relative errors."""

    known = [(read_setting(row["setting"]), row["device_gib"] * GIB) for row in rows]

    def loss(constants):
        return sum((bytes_at(one, context, *constants) / peak - 1) ** 2 for one, peak in known)

    return min(product(SEGMENTS, UNMERGED), key=loss)


def bytes_at(setting, context, segments, unmerged):
    """Of the device's peak, with these two constants."""
    queries = setting.setup.tokens * widths(setting.shape)[1] * 2
    exact = memory_of(setting) - memory.slack_bytes(setting.setup)
    return exact + segments + unmerged * queries + context


def memory_of(setting):
    """Bytes that the allocator should reserve."""
    return sum(part.bytes for part in memory.memory_parts(setting.setup, setting.policy))


def summary(errors):
    ordered = sorted(abs(one) for one in errors)
    at_95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return f"95th percentile {at_95:.1%}, worst {ordered[-1]:.1%}"


if __name__ == "__main__":
    main(*sys.argv[1:])
