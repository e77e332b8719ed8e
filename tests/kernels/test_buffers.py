import pytest
import torch

from repotune.kernels import Buffers
from repotune.kernels.buffers import ALIGNMENT


@pytest.fixture
def buffers():
    return Buffers(torch.bfloat16, torch.device("cpu"))


def test_a_name_is_the_same_memory_again(buffers):
    first = buffers.take("x", 6, 7)
    first.fill_(3.0)
    again = buffers.take("x", 3, 14)
    assert again.shape == (3, 14)
    assert again.is_contiguous()
    assert again.data_ptr() == first.data_ptr()
    assert (again == 3.0).all()


def test_other_names_are_other_memory(buffers):
    x = buffers.take("x", 5).fill_(1.0)
    y = buffers.take("y", 5).fill_(2.0)
    assert (x == 1.0).all()
    assert (y == 2.0).all()


def test_memory_grows_to_the_largest_size_and_stays(buffers):
    small = buffers.take("x", 10)
    large = buffers.take("x", 4, 100)
    assert large.shape == (4, 100)
    assert large.untyped_storage().nbytes() >= 4 * 100 * 2
    large.zero_()
    small.fill_(1.0)
    assert not large.any()  # who kept the small one still has it, for itself
    assert buffers.take("x", 10).data_ptr() == large.data_ptr()


def test_a_tensor_has_the_dtype_and_device_of_the_set_unless_told_otherwise(buffers):
    assert buffers.take("x", 2).dtype == torch.bfloat16
    assert buffers.take("p", 2, dtype=torch.float32).dtype == torch.float32
    assert buffers.take("p", 50, dtype=torch.float32).dtype == torch.float32
    assert Buffers(torch.float16, torch.device("meta")).take("x", 2).device.type == "meta"


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 200])
def test_rows_of_a_padded_tensor_begin_at_aligned_places(buffers, columns):
    padded = buffers.take_padded("x", 5, columns)
    assert padded.is_contiguous()
    assert len(padded) == 5
    assert padded.shape[1] % ALIGNMENT == 0
    assert columns <= padded.shape[1] < columns + ALIGNMENT


def test_a_set_of_buffers_is_its_own(buffers):
    other = Buffers(torch.bfloat16, torch.device("cpu"))
    assert buffers.take("x", 5).data_ptr() != other.take("x", 5).data_ptr()


def test_nothing_is_a_size_too(buffers):
    assert buffers.take("x", 0, 5).shape == (0, 5)
    assert buffers.take("x", 5, 0).shape == (5, 0)


def test_new_memory_is_counted_and_used_memory_is_not():
    buffers = Buffers(torch.float32, torch.device("cpu"))
    counts = []
    for name, size in (("a", 8), ("a", 8), ("a", 4), ("a", 9), ("b", 1), ("a", 9)):
        buffers.take(name, size)
        counts.append(buffers.allocations)
    assert counts == [1, 1, 1, 2, 3, 3]
    buffers.clear()
    buffers.take("a", 1)
    assert buffers.allocations == 4
