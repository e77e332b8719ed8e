"""Which table a device gets, as far as it can be told without one."""

from dataclasses import replace

import pytest
import torch

from repotune.kernels import PLAIN, PLAIN_GPU, fastest_ops, with_triton_tried
from repotune.kernels.select import tried
from repotune.machine import probe

CPU = torch.device("cpu")
HERE = probe(uses_gpu=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_cpu_computes_in_all_precisions_and_has_nothing_to_excuse(dtype):
    assert fastest_ops(torch.device("cpu"), dtype) == (PLAIN, None)


@pytest.mark.parametrize(("deterministic", "table"), [(False, PLAIN_GPU), (True, PLAIN)])
def test_a_gpu_without_the_fused_table_says_why(deterministic, table):
    ops, note = fastest_ops(torch.device("cuda"), torch.float32, deterministic=deterministic)
    assert ops is table
    assert "the precision is fp32" in note


def test_a_triton_that_does_not_work_is_passed_over_and_said():
    def broken(*args, **options):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    why = tried(lambda: replace(PLAIN, rms_norm=broken), CPU)
    assert why == "Failed to find C compiler. Please specify via CC."
    assert tried(lambda: PLAIN, CPU) is None


def test_memory_that_runs_out_is_no_fault_of_tritons():
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        tried(lambda: replace(PLAIN, rms_norm=full), CPU)


@pytest.mark.parametrize(("gpu", "bf16"), [(None, True), ("Tesla T4", False)])
def test_triton_is_not_tried_where_the_fused_kernels_would_not_run(gpu, bf16):
    machine = replace(HERE, gpu=gpu, bf16=bf16)
    assert with_triton_tried(machine) is machine


def test_a_machine_has_fused_kernels_only_if_triton_runs(monkeypatch):
    monkeypatch.setattr("repotune.kernels.select.find_spec", lambda name: None)
    gpu = replace(HERE, gpu="NVIDIA H100", bf16=True, triton=True)
    assert gpu.has_fused_kernels
    assert not with_triton_tried(gpu).has_fused_kernels
