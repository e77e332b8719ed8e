"""Reports on real runs of a tiny model: whole, interrupted, damaged; and where they are written."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from repotune import FineTuningConfig, tune
from repotune.cli import main
from repotune.errors import RunError, UsageError
from repotune.events import StepDone
from repotune.reporting import read_contents, report
from repotune.runs import RunFolder


def settings(base, folder, **changes):
    return FineTuningConfig(
        **{
            "model": str(base), "output_dir": folder, "max_seq_length": 128, "batch_size": 2,
            "gradient_accumulation_steps": 1, "max_steps": 3, "learning_rate": 3e-2,
            "precision": "fp32", "eval_max_tokens": 1000, **changes,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(source_tree, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "shop"
    tune(source_tree, settings(tiny_model, folder))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "shop"))


def test_a_run_is_read_as_it_was_written(run):
    found = read_contents(RunFolder(run))
    assert (found.name, found.status, found.metrics.steps) == ("shop", "finished", 3)
    assert found.damaged == ()
    assert found.evaluation.judgement.sentence
    assert sum(one.kept for one in found.languages) == found.corpus.files_kept
    assert found.rows.tokens_kept == 1.0
    path = report(run)
    assert path == run / "report.html"
    page = path.read_text(encoding="utf-8")
    for said in (
        f"{found.evaluation.tuned_bits_per_byte:.4f}", found.corpus.fingerprint,
        found.rows.fingerprint, found.state.facts["base_digest"], "max_seq_length = 128",
    ):  # fmt: skip
        assert said in page
    assert page.count("<svg") == 5  # loss, speed, memory, learning rate, gradient norm
    took = found.state.facts["took"]
    assert min(took["start"], took["evaluation"], found.metrics.training_seconds) > 0
    assert [step for step, _ in found.metrics.memory_bytes] == [1, 2, 3]
    assert min(most for _, most in found.metrics.memory_bytes) > 2**26
    assert "Minutes of the evaluation" in page
    before = sorted(one.name for one in run.iterdir())
    assert report(run, lang="ko") == path  # an older report is replaced, and nothing else is left
    assert sorted(one.name for one in run.iterdir()) == before
    assert '<html lang="ko">' in path.read_text(encoding="utf-8")


def test_an_interrupted_run_has_a_report_that_says_so(source_tree, tiny_model, tmp_path):
    def stop_after_two(event):
        if isinstance(event, StepDone) and event.step == 2:
            signal.raise_signal(signal.SIGTERM)

    folder = tmp_path / "run"
    tune(source_tree, settings(tiny_model, folder, max_steps=9), emit=stop_after_two)
    page = report(folder).read_text(encoding="utf-8")
    assert "interrupted: it can be resumed (2 of 9 steps)" in page
    assert "The run has no adapter yet" in page


def test_what_is_damaged_or_gone_is_said_and_the_rest_shown(run):
    (run / "evaluation.json").write_text("{", encoding="utf-8")
    (run / "corpus" / "manifest.parquet").write_bytes(b"no Parquet")
    shutil.rmtree(run / "tokens")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    page = report(run).read_text(encoding="utf-8")
    assert "evaluation.json is damaged" in page
    assert "manifest.parquet is damaged" in page
    assert "The run was not evaluated" in page
    assert "1 lines of metrics.jsonl cannot be read" in page
    assert "<svg" in page


def test_a_run_whose_process_is_gone_has_stopped_and_a_hidden_one_says_what_it_wrote(run):
    RunFolder(run).update(status="running")
    assert read_contents(RunFolder(run)).status == "stopped"
    hidden = run.rename(run.with_name(".shop"))
    assert read_contents(RunFolder(hidden)).status == "running"


def test_nothing_but_an_older_report_is_replaced(run, tmp_path):
    other = tmp_path / "notes.html"
    other.write_text("<!doctype html>mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"notes\.html is there already and is no report"):
        report(run, output=other)
    assert other.read_text(encoding="utf-8") == "<!doctype html>mine"
    with pytest.raises(UsageError, match="is a folder: give a file's name"):
        report(run, output=tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        report(run, output=tmp_path / "missing" / "r.html")
    with pytest.raises(RunError, match="is not a run"):
        report(tmp_path / "none")


def test_the_command_writes_where_it_is_told(run, tmp_path, capsys):
    target = tmp_path / "r.html"
    assert main(["report", str(run), "--lang", "ko", "-o", str(target), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"run": str(run), "report": str(target)}
    assert main(["report", str(run), "-o", str(run)]) == 2
    assert "is a folder" in capsys.readouterr().err
