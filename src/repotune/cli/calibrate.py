"""`repotune calibrate`: measure how fast this machine is."""

from __future__ import annotations

from dataclasses import asdict

import click

from repotune.cli.options import json_option
from repotune.cli.progress import show_progress
from repotune.cli.show import print_json
from repotune.records import MachineRates

GIB = 2**30


@click.command(
    "calibrate",
    help="Measure how fast this machine is: matmuls, memory, copies to the GPU, launches.\n\n"
    "It takes at most 30 seconds. What it finds is kept for this machine, and every later plan "
    "uses it.",
    short_help="Measure how fast this machine is, for better plans.",
)
@json_option
def command(as_json: bool) -> int:
    """Measure, keep and show."""
    from repotune import preflight

    with show_progress() as emit:
        rates = preflight.calibrate(emit=emit)
    if as_json:
        print_json(asdict(rates))
    else:
        click.echo(rates_text(rates))
    return 0


def rates_text(rates: MachineRates) -> str:
    """One line a figure."""
    lines = [f"{rates.name}, PyTorch {rates.torch}, in {rates.probe_seconds:.0f} s"]
    for precision, flops in rates.matmul_flops_per_second.items():
        lines.append(f"Matmul {precision:<10} {flops / 1e12:10.2f} TFLOP/s")
    lines.append(f"Memory            {rates.memory_bytes_per_second / 1e9:10.1f} GB/s")
    if rates.host_to_device_bytes_per_second is not None:
        to_device = rates.host_to_device_bytes_per_second
        lines.append(f"Host to GPU       {to_device / 1e9:10.1f} GB/s")
    lines.append(f"Launch            {rates.launch_seconds * 1e6:10.1f} µs")
    if rates.context_bytes:
        lines.append(f"Context           {rates.context_bytes / GIB:10.2f} GiB")
    return "\n".join(lines)
