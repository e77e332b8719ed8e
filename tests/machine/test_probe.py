"""What the probe says of this machine agrees with what others say of it."""

import os
import platform
import time

import psutil
import torch

from repotune.machine import probe
from repotune.machine.probe import bf16_pays_off, cpu_name


def test_the_facts_are_those_of_this_machine() -> None:
    machine = probe()
    assert machine.platform == platform.platform()
    assert machine.torch == torch.__version__
    assert machine.ram_bytes == psutil.virtual_memory().total
    assert 0 < machine.ram_free_bytes <= machine.ram_bytes
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert (machine.gpu is not None) == torch.cuda.is_available()
    assert (machine.gpu_free_bytes > 0) == torch.cuda.is_available()


def test_the_processor_has_a_name() -> None:
    name = cpu_name()
    assert name == name.strip() != ""


def test_bf16_pays_off_where_a_longer_timing_says_so() -> None:
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(1024, 1024, dtype=dtype)
        torch.mm(matrix, matrix)
        start = time.perf_counter()
        for _ in range(5):
            torch.mm(matrix, matrix)
        seconds[dtype] = time.perf_counter() - start
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    # In between, the two timings may rightly differ.
    if gain > 2.0:
        assert bf16_pays_off()
    if gain < 0.7:
        assert not bf16_pays_off()
