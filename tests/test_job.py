"""What a run's configuration means on this machine."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from repotune.errors import DoesNotFit
from repotune.handover import export
from repotune.job import first_passes, lower_policy, plan_policy, settle
from repotune.planning.policy import USABLE, needed_bytes
from repotune.records import Passes
from repotune.runs import open_run

from .stages.jobs import new_run, on_gpu

GIB = 2**30


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


def test_a_run_begins_as_it_went_on_when_memory_had_run_out(
    source_tree, tiny_model, tmp_path, monkeypatch
):
    run = new_run(tmp_path / "run", source_tree, tiny_model, max_seq_length=2048)
    job = on_gpu(settle(run.state(), print), gpu_free_bytes=GIB, ram_free_bytes=GIB)
    monkeypatch.setattr("repotune.machine.gpu_room", lambda: GIB)
    monkeypatch.setattr("repotune.machine.who_holds_the_gpu", lambda: "")
    healed = Passes(policy=lower_policy(job, 2048, plan_policy(job, 2048)), rows=1)
    # As it comes out of run.json.
    facts = {"machine": asdict(job.machine), "passes": json.loads(json.dumps(asdict(healed)))}
    assert first_passes(job, facts) == healed
    planned = Passes(policy=plan_policy(job), rows=2)
    assert planned.policy.layers != healed.policy.layers
    assert first_passes(job, {**facts, "passes": None}) == planned
    assert first_passes(job, {**facts, "machine": {"gpu": "another"}}) == planned
    assert first_passes(job, {}) == planned

    # Less is free than there was: that is planned for, with the rows that were left.
    whole = Passes(policy=plan_policy(job, 1024), rows=1, cuts=2)
    little = int(needed_bytes(job.setup_of(1024)) / USABLE["cuda"]) + 2**16
    tight = replace(job, machine=replace(job.machine, gpu_free_bytes=little, ram_free_bytes=0))
    with pytest.raises(DoesNotFit):
        plan_policy(tight)
    begun = first_passes(tight, {**facts, "passes": asdict(whole)})
    assert (begun.rows, begun.cuts) == (1, 2)
    assert begun.policy == plan_policy(tight, 1024)
    assert begun.policy.layers != whole.policy.layers
