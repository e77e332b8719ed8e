"""What is wrong with a run is found and named, with what can be saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from repotune import FineTuningConfig, resume, tune
from repotune.cli import main
from repotune.errors import RunError
from repotune.runs import RunFolder
from repotune.verify import verify


@pytest.fixture(scope="module")
def whole(source_tree, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified") / "run"
    config = FineTuningConfig(
        model=str(tiny_model), output_dir=folder, max_seq_length=64, batch_size=2,
        gradient_accumulation_steps=1, max_steps=6, save_steps=2, learning_rate=1e-2,
        precision="fp32", evaluate=False,
    )  # fmt: skip
    tune(source_tree, config)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return RunFolder(Path(shutil.copytree(whole, tmp_path / "run")))


def wrong(found):
    return [finding.what for finding in found.findings if not finding.ok]


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_whole_run_is_well_and_stays_as_it_is(run, capsys):
    before = files_of(run.path)
    assert main(["verify", str(run.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["advice"]) == (True, [])
    checked = {finding["what"]: finding["detail"] for finding in found["findings"]}
    assert list(checked)[:4] == ["run.json", "corpus", "tokens", "adapter"]
    assert checked["corpus"] == "3 files fit their SHA-256"
    assert checked["checkpoints/step-000006"] == "whole"
    now, then = checked["held-out loss"].split(" nats per token now, ")
    assert then == f"{now} when it was trained"
    assert files_of(run.path) == before


@pytest.mark.parametrize(
    "name",
    ["corpus/documents.parquet", "corpus/manifest.parquet", "corpus/summary.json",
     "tokens/ids-000.bin", "tokens/rows.parquet", "tokens/tokens.json",
     "adapter/adapter_model.safetensors", "adapter/adapter_config.json"],
)  # fmt: skip
def test_one_changed_byte_of_any_file_is_found_and_named(run, name, capsys):
    flip(run.path / name)
    assert main(["verify", str(run.path)]) == 1
    said = capsys.readouterr().out
    assert f"WRONG  {name}: it does not fit its SHA-256" in said
    assert str(run.path) in said.splitlines()[-1]


def test_a_missing_file_is_found(run):
    (run.tokens / "rows.parquet").unlink()
    assert "tokens/rows.parquet" in wrong(verify(run.path))


def test_a_damaged_checkpoint_is_found_and_the_whole_one_named(run):
    flip(run.checkpoints / "step-000006" / "optimizer.safetensors")
    found = verify(run.path)
    assert wrong(found) == ["checkpoints/step-000006"]
    assert found.advice == (
        f"Damaged checkpoints are passed over: `repotune tune --resume {run.path}` goes on from "
        "checkpoints/step-000004.",
    )


def test_a_damaged_adapter_is_written_again_as_the_advice_says(run):
    path = run.adapter / "adapter_model.safetensors"
    expected = load(path.read_bytes())  # a mapped file would change with it
    flip(path)
    found = verify(run.path)
    assert "adapter/adapter_model.safetensors" in wrong(found)
    assert "Move" in found.advice[0]
    assert "writes it again" in found.advice[0]
    run.adapter.rename(run.path / "moved-away")
    resume(run.path)
    ours = load(path.read_bytes())
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert verify(run.path).ok


def test_a_damaged_adapter_is_written_again_by_a_resume_alone(run):
    flip(run.adapter / "adapter_model.safetensors")
    assert resume(run.path).steps == 6
    assert verify(run.path).ok
    assert run.state().facts["training"]["tokens_per_second"] > 0  # of when it was trained
    with pytest.raises(RunError, match="is finished"):
        resume(run.path)


def test_an_adapter_that_scores_otherwise_is_found(run):
    path = run.adapter / "adapter_model.safetensors"
    louder = {name: tensor * 30 for name, tensor in load(path.read_bytes()).items()}
    path.write_bytes(save(louder))
    run.record_digests(run.adapter)  # whoever changed it was thorough
    assert wrong(verify(run.path)) == ["held-out loss"]


def test_an_edited_run_json_is_the_first_finding(run):
    run.run_json.write_text(run.run_json.read_text().replace('"max_steps": 6', '"max_steps": 9'))
    found = verify(run.path)
    assert wrong(found) == ["run.json"]
    assert "was edited or damaged" in found.findings[0].detail
    assert "checkpoints/step-000006/state.json says under about.config" in found.advice[0]


def test_a_model_that_is_gone_is_said_and_the_adapter_is_not_blamed(run, tiny_model):
    away = tiny_model.rename(tiny_model.with_name("away"))
    try:
        found = verify(run.path)
    finally:
        away.rename(tiny_model)
    assert wrong(found) == ["base model"]
    assert "is gone from" in found.findings[-1].detail
    assert found.advice == ()


def test_a_run_that_is_not_finished_can_be_well(run):
    shutil.rmtree(run.adapter)
    facts = run.state().facts
    digests = {n: d for n, d in facts["digests"].items() if not n.startswith("adapter")}
    run.update("interrupted", {"digests": digests})
    found = verify(run.path)
    assert found.ok
    assert found.findings[-1].detail == "none yet, since the run is not finished"
    run.update("running")  # its process was killed
    assert verify(run.path).findings[0].detail == "whole; the run is stopped"
    run.update("finished")
    assert wrong(verify(run.path)) == ["adapter"]


def test_what_is_no_run_or_in_work_is_refused(run, tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        verify(tmp_path / "absent")
    with run.locked(), pytest.raises(RunError, match="in use by process"):
        verify(run.path)
