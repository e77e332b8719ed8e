"""Training as a stage: metrics, the held-out sample, healing that is written down."""

import json

import torch

from repotune.evaluation import sample_loss
from repotune.events import Healed, HeldoutMeasured
from repotune.job import lower_policy
from repotune.planning import saved_layer_bytes
from repotune.records import IGNORE
from repotune.stages import heldout_sample, train_on
from repotune.training import latest

from .jobs import nothing, on_gpu, ready


def test_the_sample_is_the_same_each_time_and_of_held_out_files_only(
    tmp_path, source_tree, tiny_model
):
    one = ready(tmp_path / "run", source_tree, tiny_model)
    first, again = (heldout_sample(one.folder, one.job) for _ in range(2))
    assert len(first) > 3
    assert all((a.input_ids == b.input_ids).all() for a, b in zip(first, again, strict=True))
    assert sum(len(row.input_ids) for row in first) <= 4096
    without = ready(tmp_path / "all", source_tree, tiny_model, heldout_share=0, evaluate=False)
    assert heldout_sample(without.folder, without.job) == ()


def test_without_held_out_files_the_last_step_is_taken(tmp_path, source_tree, tiny_model):
    one = ready(tmp_path / "run", source_tree, tiny_model, heldout_share=0, evaluate=False)
    result = train_on(one.folder, one.job, one.decoder, one.rows, one.passes, nothing, memory=int)
    assert (result.steps, result.best_step, result.heldout_loss) == (4, None, None)


def test_the_held_out_loss_is_the_mean_over_targets(tmp_path, source_tree, tiny_model):
    events = []
    one = ready(tmp_path / "run", source_tree, tiny_model, eval_steps=4)
    train_on(one.folder, one.job, one.decoder, one.rows, one.passes, events.append, memory=int)
    (measured,) = [event for event in events if isinstance(event, HeldoutMeasured)]
    nats = targets = 0.0
    for row in heldout_sample(one.folder, one.job):
        logits = one.decoder.logits(row.input_ids, starts=row.starts).double()
        labels = torch.from_numpy(row.labels).long()
        nats += float(torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORE, reduction="sum"
        ))  # fmt: skip
        targets += int((row.labels != IGNORE).sum())
    assert abs(measured.loss - nats / targets) < 1e-5


def test_a_stop_is_heard_between_two_layers_of_a_measurement(tmp_path, source_tree, tiny_model):
    one = ready(tmp_path / "run", source_tree, tiny_model)
    sample = heldout_sample(one.folder, one.job)
    asked = iter([False, False, False, True])
    assert sample_loss(one.decoder, sample, should_stop=asked.__next__) is None
    assert next(asked, "none left") == "none left"
    assert sample_loss(one.decoder, sample, should_stop=lambda: False) > 0


def test_healing_is_written_down(tmp_path, source_tree, tiny_model, monkeypatch):
    events = []
    changes = {"max_seq_length": 512, "allow_shorter_rows": True}
    one = ready(tmp_path / "run", source_tree, tiny_model, **changes)
    # On so large a machine as the tests' the planner has nothing lower to offer.
    monkeypatch.setattr("repotune.stages.tuning.lower_policy", lambda job, tokens, than: None)
    real, left = one.decoder.loss_and_grad, [3]

    def out_of_memory_once(row, **options):
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(row, **options)

    monkeypatch.setattr(one.decoder, "loss_and_grad", out_of_memory_once)
    train_on(one.folder, one.job, one.decoder, one.rows, one.passes, events.append, memory=int)
    (healed,) = [event for event in events if isinstance(event, Healed)]
    (fact,) = one.folder.state().facts["healed"]
    assert (fact["step"], fact["remedy"]) == (healed.step, healed.remedy) == (1, healed.remedy)
    assert (fact["stage"], fact["tokens_per_pass"]) == ("training", 256)
    lines = [json.loads(line) for line in one.folder.metrics.read_text().splitlines()]
    assert {"step": 1, "healed": healed.remedy} in lines


def test_a_checkpoint_says_what_run_it_is_of(tmp_path, source_tree, tiny_model):
    one = ready(tmp_path / "run", source_tree, tiny_model)
    train_on(one.folder, one.job, one.decoder, one.rows, one.passes, nothing, memory=int)
    about = json.loads((latest(one.folder.checkpoints, print) / "state.json").read_text())["about"]
    state = one.folder.state()
    assert about["config"] == state.config
    assert about["tree"] == state.tree
    assert about["versions"] == state.versions


def test_a_run_asked_to_be_deterministic_is_on_a_cpu_what_it_is_anyway(
    tmp_path, source_tree, tiny_model
):
    adapters = []
    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        one = ready(folder, source_tree, tiny_model, deterministic=wanted, use_4bit=False)
        train_on(one.folder, one.job, one.decoder, one.rows, one.passes, nothing, memory=int)
        assert one.job.setup.deterministic is wanted
        assert one.folder.state().config["deterministic"] is wanted
        adapters.append(one.decoder.lora_state())
    if one.job.device == "cpu":
        assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert not torch.are_deterministic_algorithms_enabled()


def kept(job, policy):
    setup = job.setup
    return sum(
        saved_layer_bytes(job.shape, job.lora, one.saving, tokens=setup.tokens,
                          itemsize=setup.itemsize, is_fused=setup.is_fused)
        for one in policy.layers if not one.offloaded
    )  # fmt: skip


def test_asked_again_the_planner_goes_down_step_by_step_and_ends(
    tmp_path, source_tree, tiny_model, monkeypatch
):
    one = ready(tmp_path / "run", source_tree, tiny_model, max_seq_length=2048)
    job = on_gpu(one.job, gpu_free_bytes=2**30, ram_free_bytes=2**30)
    monkeypatch.setattr("repotune.machine.gpu_room", lambda: 2**30)
    policies = [lower_policy(job, job.setup.tokens, None)]
    while (lower := lower_policy(job, job.setup.tokens, policies[-1])) is not None:
        policies.append(lower)
        assert len(policies) < 30
    sizes = [kept(job, policy) for policy in policies]
    assert sizes == sorted(set(sizes), reverse=True)
    assert {layer.saving for layer in policies[0].layers} == {"all"}
    assert len(policies) > 2


def test_who_wants_nothing_recomputed_is_not_made_to(
    tmp_path, source_tree, tiny_model, monkeypatch
):
    changes = {"gradient_checkpointing": False, "max_seq_length": 2048}
    one = ready(tmp_path / "run", source_tree, tiny_model, **changes)
    job = on_gpu(one.job, gpu_free_bytes=2**30)
    monkeypatch.setattr("repotune.machine.gpu_room", lambda: 2**30)
    assert lower_policy(job, job.setup.tokens, lower_policy(job, job.setup.tokens, None)) is None
