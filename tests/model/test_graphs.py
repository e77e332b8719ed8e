"""Recorded passes where recording runs out of memory; what they compute is in ``test_on_gpu``."""

from contextlib import contextmanager

import pytest
import torch

from repotune.model.graphs import Graphs, Inputs


@pytest.fixture
def recordings(monkeypatch):
    """CUDA's recording, refused as long as the list is empty; each attempt adds a word."""
    tried = []

    class Graph:
        def replay(self):
            tried.append("replayed")

    @contextmanager
    def recording(graph, pool=None):
        tried.append("tried")
        if len(tried) <= 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    monkeypatch.setattr("torch.cuda.graph", recording)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 0))
    return tried


def test_fixed_work_that_cannot_be_recorded_is_done_each_time(recordings):
    graphs, done = Graphs(on_gpu=True), []
    for turn in range(4):
        graphs.replay("refresh", lambda: done.append("work"))
        assert len(done) == turn + 1
    assert recordings == ["tried"]  # and not again, until memory was let go of
    graphs.clear()
    graphs.replay("refresh", lambda: done.append("work"))
    assert recordings == ["tried", "tried", "replayed"]


def test_a_pass_that_cannot_be_recorded_is_computed_each_time(recordings):
    inputs = Inputs(*(torch.zeros(1) for _ in range(5)))
    graphs = Graphs(on_gpu=True)
    results = [graphs.run("size", inputs, lambda given: torch.ones(())) for _ in range(4)]
    assert results == [1.0] * 4
    assert recordings == ["tried"]


def test_without_a_gpu_nothing_is_recorded(recordings):
    graphs, done = Graphs(on_gpu=False), []
    for _ in range(3):
        graphs.replay("refresh", lambda: done.append("work"))
    assert (len(done), recordings) == (3, [])
