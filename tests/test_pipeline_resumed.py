"""Runs that were killed, stopped or no longer fit, and what a rehearsal finds: nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repotune import evaluate, resume, tune
from repotune.cli import main
from repotune.errors import (
    DoesNotFit,
    Interrupted,
    RepotuneError,
    RunError,
    UsageError,
)
from repotune.events import Healed, Notice, StepDone
from repotune.job import settle
from repotune.model import Decoder
from repotune.planning.policy import USABLE, needed_bytes
from repotune.runs import open_run

from .pipeline_runs import settings


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    finished, source_tree, tiny_model, tmp_path
):
    result, _ = finished
    folder = tmp_path / "run"
    config = settings(tiny_model, folder).to_toml()
    (tmp_path / "config.toml").write_text(config, encoding="utf-8")
    killed_after_the_second_save = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from repotune import FineTuningConfig, tune\n"
        "from repotune.events import CheckpointSaved\n"
        "def emit(event):\n"
        "    if isinstance(event, CheckpointSaved) and event.step == 4:\n"
        "        os.kill(os.getpid(), 9)\n"
        "tune(sys.argv[1], FineTuningConfig.from_toml(Path(sys.argv[2])), emit=emit)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", killed_after_the_second_save]
    done = subprocess.run([*command, source_tree, tmp_path / "config.toml"], check=False)
    assert done.returncode != 0
    steps = []
    resumed = resume(folder, emit=lambda e: steps.append(e.step) if isinstance(e, StepDone) else 0)
    assert steps == [5, 6]
    assert resumed.steps == 6
    ours = load_file(folder / "adapter" / "adapter_model.safetensors")
    theirs = load_file(Path(result.run) / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.evaluation == result.evaluation
    assert open_run(folder).state().facts["resumed"] == [4]


def test_a_run_without_a_checkpoint_starts_again_from_its_stored_configuration(
    source_tree, tiny_model, tmp_path
):
    def stop_at_once(event):
        if isinstance(event, StepDone):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"--resume .*run"):
        tune(source_tree, settings(tiny_model, folder, evaluate=False), emit=stop_at_once)
    assert open_run(folder).state().status == "interrupted"
    assert not list((folder / "checkpoints").glob("step-*"))
    assert resume(folder).steps == 6


def test_ctrl_c_finishes_the_step_saves_and_a_resume_goes_on(source_tree, tiny_model, tmp_path):
    folder = tmp_path / "run"

    def press_at_three(event):
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    config = settings(tiny_model, folder, evaluate=False, save_steps=100)
    stopped = tune(source_tree, config, emit=press_at_three)
    assert (stopped.steps, stopped.interrupted, stopped.adapter) == (3, True, None)
    assert open_run(folder).state().status == "interrupted"
    with pytest.raises(RunError, match=r"has no adapter yet.*--resume"):
        evaluate(folder)
    done = resume(folder)
    assert (done.steps, done.interrupted) == (6, False)
    with pytest.raises(RunError, match="is finished"):
        resume(folder)


def test_a_resume_that_is_refused_at_once_leaves_the_status_as_it_was(
    source_tree, tiny_model, tmp_path
):
    folder, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(tiny_model, model)

    def press_at_three(event):
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    tune(source_tree, settings(model, folder, evaluate=False), emit=press_at_three)
    model.rename(tmp_path / "elsewhere")
    with pytest.raises(RepotuneError):
        resume(folder)
    assert open_run(folder).state().status == "interrupted"
    (tmp_path / "elsewhere").rename(model)

    def fail(event):
        if isinstance(event, StepDone):
            raise RunError("A step went wrong.")

    with pytest.raises(RunError):
        resume(folder, emit=fail)
    assert open_run(folder).state().status == "failed"
    assert resume(folder).steps == 6


def test_ctrl_c_in_the_last_step_is_heeded_too(source_tree, tiny_model, tmp_path):
    folder = tmp_path / "run"

    def press_at_the_end(event):
        if isinstance(event, StepDone) and event.step == 6:
            signal.raise_signal(signal.SIGINT)

    stopped = tune(source_tree, settings(tiny_model, folder), emit=press_at_the_end)
    assert (stopped.steps, stopped.interrupted, stopped.evaluation) == (6, True, None)
    before = open_run(folder).state().facts["took"]
    assert set(before) == {"start"}
    done = resume(folder)
    assert (done.steps, done.tokens) == (6, stopped.tokens)
    assert done.evaluation is not None
    took = open_run(folder).state().facts["took"]
    assert took["start"] > before["start"]  # of both processes
    assert took["evaluation"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal")
def test_sigterm_saves_says_how_to_go_on_and_exits(source_tree, tiny_model, tmp_path):
    folder = tmp_path / "run"
    config = settings(tiny_model, folder, max_steps=5000, save_steps=5000, evaluate=False)
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "repotune.cli", "tune", str(source_tree)]
    # So long a run measures the machine; other tests begin with one that was not.
    own = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--config", str(tmp_path / "config.toml")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own,
    ) as process:  # fmt: skip
        assert any(line.startswith("step 100/") for line in process.stderr)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    assert process.returncode == 1
    assert said.rstrip().endswith(f"Interrupted; go on with: repotune tune --resume {folder}")
    assert seconds < 10
    assert open_run(folder).state().status == "interrupted"
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) >= 100


def test_the_same_command_again_offers_to_go_on(source_tree, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings(tiny_model, None, evaluate=False)

    def press_at_three(event):
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    stopped = tune(source_tree, config, emit=press_at_three)
    with pytest.raises(RunError, match=f"go on with it by `repotune tune --resume {stopped.run}`"):
        tune(source_tree, config)
    other = tune(source_tree, config.merged({"max_steps": 1, "save_steps": 1}))
    assert other.steps == 1  # another run is no matter
    assert resume(stopped.run).steps == 6
    assert tune(source_tree, config).steps == 6  # and nor is a finished one


def test_a_run_goes_on_with_another_cut_of_the_same_global_batch(
    finished, source_tree, tiny_model, tmp_path
):
    result, _ = finished
    folder = tmp_path / "run"

    def press_at_three(event):
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    tune(source_tree, settings(tiny_model, folder), emit=press_at_three)
    with pytest.raises(UsageError, match="would be 2, and this run has 4 rows a step"):
        resume(folder, batch_size=2)
    assert open_run(folder).state().config["batch_size"] == 4
    done = resume(folder, batch_size=1, gradient_accumulation_steps=4)
    assert open_run(folder).state().config["batch_size"] == 1
    assert done.heldout_loss == pytest.approx(result.heldout_loss, rel=1e-6)
    ours = load_file(folder / "adapter" / "adapter_model.safetensors")
    theirs = load_file(Path(result.run) / "adapter" / "adapter_model.safetensors")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-7)


def test_a_run_that_no_longer_fits_goes_on_with_checkpointing_and_nothing_changes(
    finished, source_tree, tiny_model, tmp_path, monkeypatch
):
    result, _ = finished
    folder = tmp_path / "run"

    def press_at_three(event):
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    config = settings(tiny_model, folder, gradient_checkpointing=False)
    tune(source_tree, config, emit=press_at_three)
    job = settle(open_run(folder).state(), print)
    least = int(needed_bytes(job.setup) / USABLE[job.device]) + 2**16
    machine = replace(job.machine, ram_free_bytes=least, gpu_free_bytes=least)
    monkeypatch.setattr("repotune.machine.probe", lambda **options: machine)
    with pytest.raises(DoesNotFit, match="Set gradient_checkpointing to true, as --resume"):
        resume(folder)
    assert main(["tune", "--resume", str(folder), "--gradient-checkpointing"]) == 0
    facts = open_run(folder).state().facts
    assert any(layer["saving"] != "all" for layer in facts["policy"]["layers"])
    ours = load_file(folder / "adapter" / "adapter_model.safetensors")
    theirs = load_file(Path(result.run) / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_breaks_in_the_rehearsal_costs_no_hours(
    source_tree, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("repotune.stages.rehearsal.LONG_HOURS", 0.0)

    def broken(*args, **options):
        raise RunError("the adapter cannot be read.")

    config = settings(tiny_model, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("repotune.stages.rehearsal.load_adapter", broken)
        with pytest.raises(RunError, match="rehearsal failed at loading the adapter, before any"):
            tune(source_tree, config)
        assert not (tmp_path / "run" / "checkpoints").exists()
        skipped = config.merged({"output_dir": tmp_path / "skipped", "rehearsal": False})
        assert tune(source_tree, skipped).steps == 6
    events = []
    assert resume(tmp_path / "run", emit=events.append).steps == 6
    assert [e.step for e in events if isinstance(e, StepDone)] == [1, 2, 3, 4, 5, 6]
    assert any("trained, saved, resumed, exported" in getattr(e, "summary", "") for e in events)
    facts = open_run(tmp_path / "run").state().facts
    assert facts["starts"] == 2
    assert 0 < facts["took"]["rehearsal"] != facts["took"]["start"]


def test_what_the_rehearsal_healed_is_not_healed_again(
    source_tree, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("repotune.stages.rehearsal.LONG_HOURS", 0.0)
    monkeypatch.setattr("repotune.stages.tuning.lower_policy", lambda job, tokens, than: None)
    real = Decoder.loss_and_grad

    def no_room_for_512(decoder, row, **options):
        if len(row.input_ids) > 256:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(decoder, row, **options)

    monkeypatch.setattr(Decoder, "loss_and_grad", no_room_for_512)
    sizes = {"max_seq_length": 512, "batch_size": 1, "max_steps": 2}
    config = settings(
        tiny_model, tmp_path / "run", allow_shorter_rows=True, evaluate=False, **sizes
    )
    assert tune(source_tree, config).steps == 2
    facts = open_run(tmp_path / "run").state().facts
    assert [one["stage"] for one in facts["healed"]] == ["rehearsal"]
    assert (facts["training"]["passes"]["rows"], facts["training"]["passes"]["cuts"]) == (1, 2)


def test_what_was_healed_before_a_stop_is_not_healed_again(
    source_tree, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("repotune.stages.tuning.lower_policy", lambda job, tokens, than: None)
    real, passes = Decoder.loss_and_grad, []

    def no_room_for_512(decoder, row, **options):
        if len(row.input_ids) > 256:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        passes.append(len(row.input_ids))
        return real(decoder, row, **options)

    def press_at_one(event):
        if isinstance(event, StepDone) and event.step == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Decoder, "loss_and_grad", no_room_for_512)
    folder = tmp_path / "run"
    config = settings(
        tiny_model, folder, allow_shorter_rows=True, evaluate=False, max_seq_length=512,
        batch_size=1, gradient_accumulation_steps=2, max_steps=5, save_steps=1,
    )  # fmt: skip
    assert tune(source_tree, config, emit=press_at_one).interrupted
    assert open_run(folder).state().facts["passes"]["cuts"] == 2

    def resumed(**changes):
        events = []
        interrupted = resume(folder, emit=lambda e: (events.append(e), press(e)), **changes)
        healed = [event for event in events if isinstance(event, Healed)]
        said = [e.message for e in events if isinstance(e, Notice) and "ran out" in e.message]
        return interrupted, healed, said

    def press(event):
        if isinstance(event, StepDone) and event.step < 5:
            signal.raise_signal(signal.SIGINT)

    _, healed, (said,) = resumed()
    assert healed == []
    assert said.startswith("It goes on as it did since memory ran out: 1 × 256 tokens at once, and")
    # Where whole rows do not fit at all, there is no plan of them, and nothing else changes.
    job = settle(open_run(folder).state(), print)
    parts = int(needed_bytes(job.setup_of(256)) / USABLE[job.device]) + 2**16
    machine = replace(job.machine, ram_free_bytes=parts, gpu_free_bytes=parts)
    with monkeypatch.context() as patch:
        patch.setattr("repotune.machine.probe", lambda **options: machine)
        events = []
        resume(folder, emit=lambda e: (events.append(e), press(e)))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any("whole rows of 512 tokens do not fit" in message for message in said)
    # Another batch, or another machine, is planned anew.
    _, healed, said = resumed(batch_size=2, gradient_accumulation_steps=1)
    assert len(healed) == 1
    assert said == []
    facts = open_run(folder).state().facts
    open_run(folder).update(facts={"machine": {**facts["machine"], "cpu": "another"}})
    done, healed, said = resumed()
    assert (done.steps, len(healed), said) == (5, 1, [])
    assert set(passes) == {256}
