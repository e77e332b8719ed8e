"""The peak of this process, from a moment on."""

import sys

import torch

from repotune.machine import Peak, prepare_gpu

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


def test_the_allocator_is_set_up_more_than_once_without_harm():
    prepare_gpu()
    prepare_gpu()
    assert torch.ones(3).sum() == 3
