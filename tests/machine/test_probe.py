"""What the probe says of this machine agrees with what others say of it."""

import math
import os
import platform
import time
from dataclasses import replace
from typing import get_args

import psutil
import pytest
import torch

from repotune.machine import precision_here, probe
from repotune.machine.probe import bf16_pays_off, container_free_bytes, cpu_name
from repotune.records import Precision


def test_the_facts_are_those_of_this_machine() -> None:
    machine = probe()
    assert machine.platform == platform.platform()
    assert machine.torch == torch.__version__
    assert machine.ram_bytes == psutil.virtual_memory().total
    assert 0 < machine.ram_free_bytes <= machine.ram_bytes
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert (machine.gpu is not None) == torch.cuda.is_available()
    assert (machine.gpu_free_bytes > 0) == torch.cuda.is_available()


@pytest.mark.parametrize(
    ("gpu", "bf16", "auto"),
    [
        ("NVIDIA H100", True, "bf16"),
        ("Tesla T4", False, "fp16"),
        (None, True, "bf16"),
        (None, False, "fp32"),
    ],
)
def test_a_gpu_without_bf16_computes_in_fp16_and_a_processor_in_fp32(gpu, bf16, auto) -> None:
    machine = replace(probe(), gpu=gpu, bf16=bf16)
    assert precision_here("auto", machine) == auto
    for asked in get_args(Precision):
        assert precision_here(asked, machine) == asked


def test_the_processor_has_a_name() -> None:
    name = cpu_name()
    assert name == name.strip() != ""


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"memory.max": "max"}, None),
        ({"memory.max": "1000"}, 1000 - 700 + 50),
        ({"memory.max": "600"}, 0),
        ({"memory.max": "1000", "memory.stat": "anon 650\n"}, None),
        ({"memory.max": "1000", "memory.stat": "nonsense"}, None),
    ],
)
def test_a_containers_limit_bounds_what_is_free(files, free, tmp_path):
    usual = {"memory.current": "700\n", "memory.stat": "anon 650\ninactive_file 50\n"}
    for name, text in (usual | files if files else {}).items():
        (tmp_path / name).write_text(text)
    assert container_free_bytes(tmp_path) == free


def test_bf16_pays_off_where_a_longer_timing_says_so() -> None:
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(6):  # the fastest of each: other programs only make it slower
        for dtype in (torch.float32, torch.bfloat16):
            matrix = torch.ones(1024, 1024, dtype=dtype)
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    # In between, the two timings may rightly differ.
    if gain > 2.0:
        assert bf16_pays_off()
    if gain < 0.7:
        assert not bf16_pays_off()
