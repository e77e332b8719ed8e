"""The peak of this process, from a moment on."""

import sys

import pytest
import torch

from repotune.errors import UsageError
from repotune.machine import Peak, deterministic_gpu, prepare_gpu

MIB = 2**20


def test_a_peak_is_of_what_came_after_it_was_asked_for():
    torch.ones(300 * MIB, dtype=torch.uint8)
    peak = Peak("cpu")
    before = peak.bytes()
    held = torch.ones(200 * MIB, dtype=torch.uint8)
    grown = peak.bytes()
    del held
    torch.ones(100 * MIB, dtype=torch.uint8)
    if sys.platform == "linux":
        assert before is not None
        # What is resident is counted in batches of pages on many cores.
        assert abs(grown - before - 200 * MIB) < 30 * MIB
        assert abs(peak.bytes() - grown) < 30 * MIB
    else:
        # The peak of the whole life hides a smaller one.
        assert grown is None or grown > 200 * MIB


def test_each_step_has_its_own_peak_and_the_whole_has_the_largest():
    peak = Peak("cpu")
    peak.since_last()
    low = peak.since_last()
    held = torch.ones(200 * MIB, dtype=torch.uint8)
    del held
    high, after = peak.since_last(), peak.since_last()
    if sys.platform == "linux":
        assert abs(high - low - 200 * MIB) < 30 * MIB
        assert abs(after - low) < 30 * MIB
        assert peak.bytes() == pytest.approx(high, abs=MIB)
    else:
        assert min(low, high, after) > 50 * MIB


@pytest.mark.gpu
def test_on_a_gpu_a_peak_is_what_was_reserved():
    peak = Peak("cuda")
    low = peak.since_last()
    held = torch.ones(200 * MIB, dtype=torch.uint8, device="cuda")
    del held
    torch.cuda.empty_cache()
    high, after = peak.since_last(), peak.since_last()
    assert 200 * MIB <= high - low < 230 * MIB
    assert after == low
    assert peak.bytes() == high


def test_where_a_peak_cannot_begin_anew_what_is_resident_now_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("repotune.machine.memory.CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    peak = Peak("cpu")
    before = peak.since_last()
    held = torch.ones(200 * MIB, dtype=torch.uint8)
    grown = peak.since_last()
    assert abs(grown - before - 200 * MIB) < 30 * MIB
    del held
    assert abs(peak.since_last() - before) < 30 * MIB


def test_the_allocator_is_set_up_more_than_once_without_harm():
    prepare_gpu()
    prepare_gpu()
    assert torch.ones(3).sum() == 3


def test_deterministic_operations_are_for_gpus_and_end_with_the_block(monkeypatch):
    on_gpu = torch.cuda.is_available()
    with deterministic_gpu(True):
        assert torch.are_deterministic_algorithms_enabled() == on_gpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("repotune.machine.memory._refuse_a_cublas_that_varies", lambda: None)
    with deterministic_gpu(False):
        assert not torch.are_deterministic_algorithms_enabled()

    def broken():
        with deterministic_gpu(True):
            assert torch.are_deterministic_algorithms_enabled()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        broken()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_cublas_that_was_not_told_is_one_sentence(monkeypatch):
    def refuse(a, b):
        raise RuntimeError("... set CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8 ...")

    one = torch.ones(1, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *size, device: one)
    monkeypatch.setattr(torch, "mm", refuse)
    with pytest.raises(UsageError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"):
        deterministic_gpu(True).__enter__()
    assert not torch.are_deterministic_algorithms_enabled()
