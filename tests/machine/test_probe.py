"""What the probe says of this machine agrees with what others say of it."""

import os
import platform

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


def test_the_timing_of_bf16_is_repeatable() -> None:
    assert len({bf16_pays_off() for _ in range(3)}) == 1
