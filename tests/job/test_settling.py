"""What a run's configuration means on this machine."""

from pathlib import Path

import pytest
import torch

from repotune.handover import export
from repotune.job import settle
from repotune.runs import open_run


def test_work_of_the_processor_does_not_ask_for_a_gpu_that_is_broken(
    finished, tmp_path, monkeypatch
):
    run = open_run(Path(finished[0].run))

    def broken(*args):
        raise RuntimeError("CUDA error: device is busy or unavailable")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name in ("get_device_properties", "get_device_name", "mem_get_info", "init"):
        monkeypatch.setattr(torch.cuda, name, broken)
    with pytest.raises(RuntimeError, match="busy or unavailable"):
        settle(run.state(), print)
    assert settle(run.state(), print, uses_gpu=False).device == "cpu"
    done = export(run.path, tmp_path / "out", to="peft")
    assert done.proof is not None
    assert done.proof.drift < done.proof.drift_bound
