"""What is free and how fast it is, of a table's GPU and of this machine."""

import pytest

from repotune.errors import UsageError
from repotune.planning import gpu_target, machine_target
from repotune.planning.target import LIBRARY_BYTES
from repotune.records import Calibration, Machine
from repotune.tables import find_gpu, gpus

GIB = 2**30
ROW = find_gpu("RTX 4090").gpu
HERE = Machine(
    platform="", python="", torch="", cpu="CPU", cores=8, ram_bytes=64 * GIB,
    ram_free_bytes=50 * GIB, gpu="NVIDIA GeForce RTX 4090", gpu_free_bytes=20 * GIB, bf16=True,
)  # fmt: skip
MEASURED = Calibration(
    device="NVIDIA GeForce RTX 4090", matmul_flops=150e12, bandwidth=0.9e12, host_to_device=24e9,
    launch_seconds=5e-6, context_bytes=400 * 2**20, date="2026-11-25",
)  # fmt: skip


@pytest.mark.parametrize("gpu", gpus(), ids=lambda gpu: gpu.name)
def test_less_is_free_than_is_sold(gpu):
    free = gpu_target(gpu).free_bytes
    assert 0.75 * gpu.memory_gb * GIB < free < gpu.memory_gb * GIB


def test_a_measured_machine_has_a_narrower_range_around_what_was_measured():
    guessed, measured = (machine_target(HERE, ROW, one) for one in (None, MEASURED))
    assert not guessed.rates.measured
    assert measured.rates.measured
    assert measured.rates.expected.matmul_flops == 150e12
    spread = [
        one.rates.fast.matmul_flops / one.rates.slow.matmul_flops for one in (guessed, measured)
    ]
    assert spread[1] < 1.2 < spread[0]
    context = 400 * 2**20 + LIBRARY_BYTES
    assert measured.context.low == measured.context.high == context
    assert measured.free_bytes == 20 * GIB - context
    # Once the context is there, what is free is free.
    assert machine_target(HERE, ROW, MEASURED, has_context=True).free_bytes == 20 * GIB


def test_a_gpu_without_a_row_plans_only_once_it_is_measured():
    assert machine_target(HERE, None, MEASURED).gpu is None
    with pytest.raises(UsageError, match="repotune calibrate"):
        machine_target(HERE, None, None)


def test_old_gpus_are_counted_with_the_units_they_have():
    rates = {name: gpu_target(find_gpu(name).gpu).rates.expected for name in ("T4", "P100", "V100")}
    assert rates["V100"].matmul_flops > rates["T4"].matmul_flops > rates["P100"].matmul_flops
    # No flash attention before Ampere.
    share = {name: one.attention_flops / one.matmul_flops for name, one in rates.items()}
    ampere = gpu_target(find_gpu("RTX 3060").gpu).rates.expected
    assert share["T4"] < 0.5 * ampere.attention_flops / ampere.matmul_flops
