"""The whole way on a tiny model, and once on the starter: tune, resume, evaluate, complete."""

import json
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from repotune import FineTuningConfig, complete, evaluate, resume, tune
from repotune.cli import main
from repotune.errors import (
    CorpusError,
    DiskFull,
    ModelError,
    RunError,
    UsageError,
)
from repotune.events import CheckpointSaved, Notice, StepDone
from repotune.forecast import SIZE_FIELDS
from repotune.job import settle
from repotune.machine import find_device, identify, read_outcomes, read_rates
from repotune.pipeline import Location
from repotune.runs import RunFolder, open_run
from repotune.sandbox import unavailable

from .pipeline_runs import settings


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
    source_tree, tiny_model, tmp_path
):
    folder, events = tmp_path / "run", []
    # At the other tests' 0.03 Adam takes small gradients for as much as large ones.
    calm = {"eval_max_tokens": 300, "learning_rate": 3e-3}
    config = settings(tiny_model, folder, precision="fp16", **calm)
    result = tune(source_tree, config, emit=events.append)
    tune(source_tree, settings(tiny_model, tmp_path / "fp32", evaluate=False, **calm))
    steps, exact = metrics(folder), metrics(tmp_path / "fp32")
    assert all(step["loss_scale"] == 65536.0 for step in steps)
    assert all(step["loss_scale"] is None for step in exact)
    losses, norms = ([step[name] for step in exact] for name in ("loss", "grad_norm"))
    assert [step["loss"] for step in steps] == pytest.approx(losses, rel=2e-3)
    assert [step["grad_norm"] for step in steps] == pytest.approx(norms, rel=1e-2)
    assert result.evaluation.tuned_bits_per_byte < result.evaluation.base_bits_per_byte
    facts = open_run(folder).state().facts
    assert facts["precision"] == "fp16"
    notices = [event.message for event in events if isinstance(event, Notice)]
    # On a GPU it is no slower than bf16, and its time is planned.
    assert any("emulates fp16" in message for message in notices) == (find_device() == "cpu")
    assert ("plan" in facts) == (find_device() == "cuda")


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


def test_a_kept_checkpoint_is_evaluated_and_the_runs_own_figures_stay(finished, capsys):
    result, _ = finished
    run = RunFolder(Path(result.run))
    kept, facts = run.evaluation.read_bytes(), run.state().facts
    (other,) = {4, 6} - {result.best_step} if result.best_step in (4, 6) else {6}
    arguments = ["evaluate", result.run, "--no-tasks", "--json", "--step", str(other)]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)["heldout_bits_per_byte"]
    assert found["base"] == result.evaluation.base_bits_per_byte
    assert found["tuned"] != result.evaluation.tuned_bits_per_byte
    assert (run.evaluation.read_bytes(), run.state().facts) == (kept, facts)
    assert main([*arguments[:-1], "5"]) == 1
    assert "no checkpoint of step 5" in json.loads(capsys.readouterr().out)["error"]


def test_held_out_files_that_are_no_longer_those_are_refused(finished):
    result, _ = finished
    documents = RunFolder(Path(result.run)).corpus / "documents.parquet"
    content = documents.read_bytes()
    try:
        documents.write_bytes(content[:-1] + b"?")
        with pytest.raises(RunError, match=r"documents\.parquet was edited.*start a new run"):
            evaluate(result.run, tasks=False)
        documents.unlink()
        with pytest.raises(RunError, match=r"documents\.parquet is missing: put the original back"):
            evaluate(result.run, tasks=False)
    finally:
        documents.write_bytes(content)


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
        config = settings(tiny_model, tmp_path / name, batch_size=1, max_steps=21, evaluate=False,
                          learning_rate=1e-3)  # fmt: skip
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
    config = (model / "config.json").read_text("utf-8")
    (model / "config.json").write_text(json.dumps({**json.loads(config), "rope_theta": 5e5}))
    with pytest.raises(ModelError, match=r"model .* is not the one that this run was started"):
        resume(folder)
    (model / "config.json").write_text(config, "utf-8")
    tokenizer = (model / "tokenizer.json").read_text("utf-8")
    other = json.loads(tokenizer)
    other["model"]["merges"].pop()
    (model / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match=r"tokenizer .* is not the one that this run was started"):
        resume(folder)
    (model / "tokenizer.json").write_text(tokenizer, "utf-8")
    model.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"is gone from .*model: move it back there, or put a"):
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
