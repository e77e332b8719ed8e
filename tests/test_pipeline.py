"""The whole way on a tiny model, and once on the starter: tune, resume, evaluate, complete."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from repotune import FineTuningConfig, complete, evaluate, resume, tune
from repotune.cli import main
from repotune.errors import (
    CorpusError,
    DiskFull,
    DoesNotFit,
    Interrupted,
    ModelError,
    RunError,
    UsageError,
)
from repotune.events import CheckpointSaved, Notice, StepDone
from repotune.forecast import SIZE_FIELDS
from repotune.job import settle
from repotune.machine import find_device, identify, read_outcomes, read_rates
from repotune.model import Decoder
from repotune.pipeline import Location
from repotune.planning.policy import USABLE, needed_bytes
from repotune.runs import RunFolder, open_run
from repotune.sandbox import unavailable


def settings(base, output_dir, **changes):
    return FineTuningConfig(
        **{
            "model": str(base),
            "output_dir": output_dir,
            "max_seq_length": 128,
            "batch_size": 4,
            "gradient_accumulation_steps": 1,
            "max_steps": 6,
            "save_steps": 2,
            "learning_rate": 3e-2,
            "precision": "fp32",
            "eval_max_tokens": 3000,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def finished(source_tree, tiny_model, tmp_path_factory):
    events = []
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = tune(source_tree, settings(tiny_model, folder), emit=events.append)
    return result, events


def test_a_run_ends_with_an_adapter_and_its_proof(finished, source_tree):
    result, events = finished
    run = RunFolder(Path(result.run))
    assert (result.steps, result.interrupted, result.tokens_kept) == (6, False, 1.0)
    assert open_run(run.path).state().status == "finished"
    assert [e.step for e in events if isinstance(e, StepDone)] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [2, 4, 6]
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 6
    heldout = {line["step"]: line["heldout_loss"] for line in lines if "heldout_loss" in line}
    assert set(heldout) == {2, 4, 6}
    assert result.heldout_loss == min(heldout.values()) == heldout[result.best_step]
    assert losses[-1] < losses[0]
    weights = load_file(run.adapter / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)

    assert result.evaluation.tuned_bits_per_byte < result.evaluation.base_bits_per_byte
    assert result.evaluation.difference.high < 0
    saved = json.loads(run.evaluation.read_text(encoding="utf-8"))
    assert saved["tuned_bits_per_byte"] == result.evaluation.tuned_bits_per_byte

    manifest = pq.read_table(run.corpus / "manifest.parquet").to_pylist()
    assert {line["path"] for line in manifest} == {
        path.relative_to(source_tree).as_posix() for path in source_tree.rglob("*.py")
    }
    rows = pq.read_table(run.tokens / "rows.parquet")
    assert rows.num_rows > 12
    assert list(run.tensorboard.iterdir())


def metrics(folder):
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if "loss" in line]


def test_a_run_in_fp16_scales_its_gradients_and_learns_as_one_in_fp32(
    finished, source_tree, tiny_model, tmp_path
):
    folder, events = tmp_path / "run", []
    config = settings(tiny_model, folder, precision="fp16", eval_max_tokens=300)
    result = tune(source_tree, config, emit=events.append)
    steps, exact = metrics(folder), metrics(Path(finished[0].run))
    assert all(step["loss_scale"] == 65536.0 for step in steps)
    assert all(step["loss_scale"] is None for step in exact)
    # 11 bits; differences grow from step to step, at a learning rate of 0.03, where Adam takes
    # small gradients for as much as large ones
    losses, norms = ([step[name] for step in exact] for name in ("loss", "grad_norm"))
    assert [step["loss"] for step in steps] == pytest.approx(losses, rel=2e-3)
    assert [step["grad_norm"] for step in steps[:3]] == pytest.approx(norms[:3], rel=1e-2)
    assert result.evaluation.tuned_bits_per_byte < result.evaluation.base_bits_per_byte
    facts = open_run(folder).state().facts
    assert facts["precision"] == "fp16"
    notices = [event.message for event in events if isinstance(event, Notice)]
    # On a GPU it is no slower than bf16, and its time is planned.
    assert any("emulates fp16" in message for message in notices) == (find_device() == "cpu")
    assert ("plan" in facts) == (find_device() == "cuda")


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


def test_ctrl_c_in_the_last_step_is_heeded_too(source_tree, tiny_model, tmp_path):
    folder = tmp_path / "run"

    def press_at_the_end(event):
        if isinstance(event, StepDone) and event.step == 6:
            signal.raise_signal(signal.SIGINT)

    stopped = tune(source_tree, settings(tiny_model, folder), emit=press_at_the_end)
    assert (stopped.steps, stopped.interrupted, stopped.evaluation) == (6, True, None)
    done = resume(folder)
    assert (done.steps, done.tokens) == (6, stopped.tokens)
    assert done.evaluation is not None


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
    monkeypatch.setattr("repotune.machine.probe", lambda: machine)
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


def test_a_disk_without_room_is_said_before_the_tree_is_read(
    source_tree, tiny_model, tmp_path, monkeypatch
):
    usage = type("usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskFull, match=r"will write .* and 0\.0 GB are free on that disk"):
        tune(source_tree, settings(tiny_model, tmp_path / "run"))
    assert not (tmp_path / "run").exists()  # nothing of worth lay in it


def test_the_runs_configuration_serves_for_another_run(finished, tmp_path):
    result, _ = finished
    path = RunFolder(Path(result.run)).config_toml
    again = FineTuningConfig.from_toml(path, {"output_dir": tmp_path / "other"})
    assert (again.max_steps, again.output_dir) == (6, tmp_path / "other")
    assert "output_dir" not in path.read_text(encoding="utf-8")


def test_evaluating_again_gives_the_same_figures(finished):
    result, _ = finished
    assert evaluate(result.run, tasks=False) == result.evaluation
    fewer = evaluate(result.run, eval_max_tokens=500, tasks=False)
    assert 0 < fewer.tokens <= 500


def test_a_training_ends_with_the_standard_library_and_without_tasks(finished):
    result, _ = finished
    assert result.evaluation.forgetting.library.files >= 6
    assert result.evaluation.forgetting.tasks == ()


@pytest.mark.slow
def test_an_evaluation_lets_both_models_solve_tasks(finished):
    result, _ = finished
    forgetting = evaluate(result.run).forgetting
    assert forgetting.library == result.evaluation.forgetting.library
    if unavailable() is None:
        assert [one.tasks for one in forgetting.tasks] == [24, 48]
    else:
        assert len(forgetting.not_measured) == 2


def test_canaries_are_learned_and_said_and_a_resumed_run_has_the_same(tiny_model, tmp_path):
    """Of eight small files, so that a canary that stands 16 times is a good part of the rows."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(12):
        code = "".join(f"def f{number}_{n}(x):\n    return x * {n} + {number}\n" for n in range(9))
        (tree / f"m{number}.py").write_text(f"NAME{number} = 'of file {number}'\n{code}")
    folder = tmp_path / "run"
    config = settings(
        tiny_model, folder, memorisation_canaries=6, max_steps=30, save_steps=30, fim_rate=0.0,
        batch_size=2, heldout_share=0.2,
    )  # fmt: skip
    result = tune(tree, config)
    run = RunFolder(folder)
    run.check_digests(run.corpus)
    canaries = json.loads((run.corpus / "canaries.json").read_text())
    assert [one["repeats"] for one in canaries] == [1, 4, 16, 1, 4, 16, *[0] * 6]
    found = result.evaluation.memorisation
    assert (found.controls, [one.repeats for one in found.figures]) == (6, [1, 4, 16])
    assert found.figures[-1].exposure > found.figures[0].exposure
    assert evaluate(folder).memorisation == found
    damaged = run.corpus / "canaries.json"
    damaged.write_text(damaged.read_text().replace("canary", "Canary"))
    with pytest.raises(RunError, match="edited or damaged"):
        run.check_digests(run.corpus)


def test_a_completion_at_a_cursor_of_the_tree(finished, source_tree):
    result, _ = finished
    path = Path("json/decoder.py")
    lines = (source_tree / path).read_text("utf-8").split("\n")
    where = next(i for i, line in enumerate(lines, start=1) if line.startswith("import"))
    completion = complete(result.run, Location(path, where, 8), max_new_tokens=5)
    assert (completion.path, completion.line) == ("json/decoder.py", where)
    assert completion.prompt_tail.endswith("import ")
    assert completion.truth == lines[where - 1][7:]
    with pytest.raises(UsageError, match="no file absent"):
        complete(result.run, Location(Path("absent.py"), 1, None))
    with pytest.raises(UsageError, match=str(len(lines) - 1)):
        complete(result.run, Location(path, 10**6, None))


def test_a_completion_takes_a_suffix_and_a_kept_checkpoint(finished, source_tree, capsys):
    result, _ = finished
    place = f"{source_tree / 'json' / 'decoder.py'}:40"
    asked = ["complete", result.run, place, "--suffix", "\n    return 1\n", "--json"]
    assert main([*asked, "--step", "4"]) == 0
    early = json.loads(capsys.readouterr().out)
    assert main(asked) == 0
    best = json.loads(capsys.readouterr().out)
    assert early["truth"] == best["truth"] == ""
    assert early["base"] == best["base"]
    assert main([*asked, "--step", "3"]) == 1
    assert "no checkpoint of step 3" in json.loads(capsys.readouterr().out)["error"]


def test_what_is_left_open_is_decided_and_written_down(finished):
    result, events = finished
    facts = open_run(Path(result.run)).state().facts
    assert facts["precision"] == "fp32"
    assert Path(facts["base_path"]).is_dir()
    assert len(facts["policy"]["layers"]) == 2
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any("use_4bit" in message for message in notices)


def test_the_plan_and_what_came_of_it_are_written_down(finished):
    result, events = finished
    facts = open_run(Path(result.run)).state().facts
    plan, outcome = facts["plan"], facts["outcome"]
    assert (plan["verdict"], plan["steps"]) == ("fits", 6)
    for name in ("peak_gib", "tokens_per_second", "hours"):
        assert 0 < plan[name]["low"] < plan[name]["expected"] < plan[name]["high"]
    assert outcome["predicted_tokens_per_second"] == plan["tokens_per_second"]["expected"]
    assert outcome["measured_tokens_per_second"] > 0
    assert outcome["steps"] == 6
    assert result.outcome.measured_peak_bytes == outcome["measured_peak_bytes"]
    notices = [event.message for event in events if isinstance(event, Notice)]
    (line,) = [message for message in notices if message.startswith("Plan: ")]
    assert facts["policy"]["reason"].lower() in line.lower()
    assert result.outcome in read_outcomes(outcome["machine_id"])
    # 6 steps are a trial, for which nothing is measured.
    assert not any("measured once" in message for message in notices)


def test_the_first_real_run_measures_the_machine_once(
    source_tree, tiny_model, tmp_path, monkeypatch
):
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "data"))
    probe = sys.modules["repotune.machine.calibrate"]
    monkeypatch.setitem(probe.MATMUL_SECONDS, "cpu", 0.02)
    monkeypatch.setattr(probe, "COPY_SECONDS", 0.05)
    said = []
    for name in ("first", "second"):
        config = settings(tiny_model, tmp_path / name, batch_size=1, max_steps=21, evaluate=False)
        events = []
        tune(source_tree, config, emit=events.append)
        said.append(" ".join(event.message for event in events if isinstance(event, Notice)))
    assert read_rates(identify(find_device()).machine_id) is not None
    first, second = said
    assert "measured once" in first
    assert "rates are measured here" in first
    assert "The last run here" not in first
    assert "measured once" not in second
    assert "The last run here had" in second


def test_the_command_without_sizes_writes_down_what_it_used(
    source_tree, tiny_model, tmp_path, capsys
):
    command = ["tune", str(source_tree), "--model", str(tiny_model), "--no-evaluate"]
    folder = tmp_path / "run"
    arguments = ["--max-steps", "2", "--precision", "fp32", "-o", str(folder)]
    assert main([*command, *arguments]) == 0
    said = capsys.readouterr()
    assert "Plan       predicted " in said.out
    used = FineTuningConfig.from_toml(folder / "config.toml")
    state = open_run(folder).state()
    assert FineTuningConfig(**state.config).merged({"output_dir": None}) == used
    defaults = FineTuningConfig()
    others = set(FineTuningConfig.model_fields) - set(SIZE_FIELDS)
    changed = {name for name in others if dict(used)[name] != dict(defaults)[name]}
    assert changed == {"model", "max_steps", "precision", "evaluate"}
    if find_device() == "cpu":
        assert all(dict(used)[name] == dict(defaults)[name] for name in SIZE_FIELDS)
    else:
        assert "Settings for the" in said.err


def test_a_run_of_before_weights_were_sampled_knows_its_model(finished):
    run = RunFolder(Path(finished[0].run))
    digest = run.state().facts["base_digest"]
    described, _, samples = digest.partition("-")
    try:
        run.update(facts={"base_digest": described})
        assert settle(run.state(), print).base.digest == digest
        run.update(facts={"base_digest": samples})
        with pytest.raises(ModelError, match="not the one that this run was started with"):
            settle(run.state(), print)
    finally:
        run.update(facts={"base_digest": digest})


def test_a_model_that_changed_is_refused(source_tree, tiny_model, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    folder = tmp_path / "run"

    def stop(event):
        if isinstance(event, StepDone):
            signal.raise_signal(signal.SIGINT)

    tune(source_tree, settings(model, folder, evaluate=False), emit=stop)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    with pytest.raises(ModelError, match="not the one that this run was started with"):
        resume(folder)


@pytest.mark.parametrize(
    ("tree", "changes", "error", "words"),
    [
        ("absent", {}, CorpusError, "does not exist"),
        ("empty", {}, CorpusError, "empty"),
        (None, {"model": "nobody-here"}, ModelError, "neither a folder"),
        (None, {"max_seq_length": 10**9}, UsageError, "2,048 positions"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    tree, changes, error, words, source_tree, tiny_model, tmp_path
):
    (tmp_path / "empty").mkdir()
    root = source_tree if tree is None else tmp_path / tree
    with pytest.raises(error, match=words):
        tune(root, settings(tiny_model, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()  # free for another try


def test_a_run_folder_that_is_taken_is_left_alone(finished, source_tree, tiny_model):
    result, _ = finished
    before = (Path(result.run) / "run.json").read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        tune(source_tree, settings(tiny_model, Path(result.run)))
    assert (Path(result.run) / "run.json").read_bytes() == before


def test_the_starter_learns_real_code(source_tree, tmp_path):
    config = FineTuningConfig(
        model="starter", output_dir=tmp_path / "run", max_steps=4, batch_size=1,
        gradient_accumulation_steps=1, max_seq_length=256, eval_max_tokens=1500,
        learning_rate=1e-3, warmup_ratio=0.0,
    )  # fmt: skip
    result = tune(source_tree, config)
    assert 0.4 < result.evaluation.base_bits_per_byte < 1.2
    assert result.evaluation.tuned_bits_per_byte < result.evaluation.base_bits_per_byte
