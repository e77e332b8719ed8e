"""Our own reading of the fixed code, as the free memory allows."""

from dataclasses import replace

import pytest
import torch

from repotune.stages import bytes_to_read, read_fixed_code, why_not_read

from .jobs import ready


@pytest.fixture(scope="module")
def job(source_tree, tiny_model, tmp_path_factory):
    return ready(tmp_path_factory.mktemp("runs") / "run", source_tree, tiny_model).job


def with_free(job, free):
    return replace(job, machine=replace(job.machine, ram_free_bytes=free))


def test_it_is_exact_where_there_is_memory_and_rounded_where_there_is_less(job):
    least = bytes_to_read(job)
    assert bytes_to_read(job, torch.float32) == pytest.approx(2 * least, abs=1)
    dtypes = [
        reading and reading.dtype
        for reading in (
            read_fixed_code(with_free(job, free), None)
            for free in (2 * least + 2, 2 * least - 2, least)
        )
    ]
    assert dtypes == [torch.float32, torch.bfloat16, None]
    assert "GiB is free: close other programs and serve again." in why_not_read(job, "serve again")


def test_without_an_adapter_both_readings_are_the_base(job):
    reading = read_fixed_code(job, None)
    assert reading is not None
    for passage in reading.passages:
        assert passage.logits_TV.shape == (len(passage.ids), job.shape.vocab_size)
        assert torch.equal(passage.logits_TV, passage.base_TV)
