"""Recorded passes where recording fails; what they compute is in ``test_on_gpu``."""

from contextlib import contextmanager

import pytest
import torch

from repotune.model.graphs import Graphs, Inputs

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory")
WAITS = RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.fixture
def recordings(monkeypatch, request):
    """CUDA's recording, refused as long as the list is empty; each attempt adds a word."""
    tried, current = [], ["stream of the program"]

    class Graph:
        def replay(self):
            tried.append("replayed")

    @contextmanager
    def recording(graph, pool=None):
        tried.append("tried")
        current[0] = "stream of recordings"  # as CUDA leaves it where the end fails
        if len(tried) <= 1:
            raise getattr(request, "param", NO_MEMORY)
        yield

    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    monkeypatch.setattr("torch.cuda.graph", recording)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr("torch.cuda.current_stream", lambda: current[0])
    monkeypatch.setattr("torch.cuda.set_stream", lambda stream: current.__setitem__(0, stream))
    yield tried
    assert current == ["stream of the program"]


@pytest.mark.parametrize("recordings", [NO_MEMORY, WAITS], indirect=True, ids=["memory", "waits"])
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
