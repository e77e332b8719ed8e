"""Which table a device gets, as far as it can be told without one."""

from dataclasses import replace

import pytest
import torch

from repotune.kernels import PLAIN, PLAIN_GPU, fastest_ops
from repotune.kernels.select import tried

CPU = torch.device("cpu")


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

    fused = replace(PLAIN, rms_norm=broken)
    ops, note = tried(lambda: fused, PLAIN_GPU, CPU, torch.bfloat16)
    assert ops is PLAIN_GPU
    assert note.startswith(
        "Triton does not work here (Failed to find C compiler. Please specify via CC.), "
        "so the fused kernels are not used"
    )
    assert tried(lambda: PLAIN, PLAIN_GPU, CPU, torch.bfloat16) == (PLAIN, None)


def test_memory_that_runs_out_is_no_fault_of_tritons():
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        tried(lambda: replace(PLAIN, rms_norm=full), PLAIN_GPU, CPU, torch.bfloat16)
