"""How the rows of a run begin to go through the model."""

import json
from dataclasses import asdict, replace

import pytest

from repotune.errors import DoesNotFit
from repotune.job import first_passes, lower_policy, plan_policy, settle
from repotune.planning.policy import USABLE, needed_bytes
from repotune.records import Passes

from ..stages.jobs import new_run, on_gpu

GIB = 2**30


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
