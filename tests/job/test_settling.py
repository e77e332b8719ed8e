"""What a run's configuration means on this machine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repotune.errors import ModelError
from repotune.handover import export
from repotune.job import settle
from repotune.runs import open_run


def test_a_model_that_was_taught_another_order_is_not_asked_in_this_one(finished):
    state = open_run(Path(finished[0].run)).state()
    taught = replace(state, config={**state.config, "model": "starter", "fim_tokens": "add"})
    base = settle(replace(taught, model="starter", facts={}), print)
    facts = {name: base.facts[name] for name in ("model", "revision", "base_path", "base_digest")}
    assert settle(replace(taught, facts={**facts, **base.facts}), print).tokenizer.added_ids
    with pytest.raises(ModelError, match="in an order that this version no longer asks in"):
        settle(replace(taught, facts=facts), print)


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
