"""Which table a device gets, as far as it can be told without one."""

import pytest
import torch

from repotune.kernels import PLAIN, PLAIN_GPU, fastest_ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_cpu_computes_in_all_precisions_and_has_nothing_to_excuse(dtype):
    assert fastest_ops(torch.device("cpu"), dtype) == (PLAIN, None)


@pytest.mark.parametrize(("deterministic", "table"), [(False, PLAIN_GPU), (True, PLAIN)])
def test_a_gpu_without_the_fused_table_says_why(deterministic, table):
    ops, note = fastest_ops(torch.device("cuda"), torch.float32, deterministic=deterministic)
    assert ops is table
    assert "the precision is fp32" in note
