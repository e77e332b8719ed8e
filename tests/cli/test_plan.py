"""`repotune plan`: 0 whatever the verdict, one sentence for wrong use, JSON for programs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repotune.cli import main

RANGE = {"low", "expected", "high"}


def run(capsys, *arguments):
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def planned(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json"))


def test_the_object_for_programs(capsys):
    plan = planned(capsys, "--files", "10000", "--gpu", "RTX 3060")
    assert plan["verdict"] == "fits"
    assert plan["config"]["max_seq_length"] == 1024
    assert plan["files"] == 10_000
    assert plan["tokens"]["expected"] == 39e6
    for name in ("peak_vram_gib", "host_ram_gib", "hours", "disk_gib", "cost", "hours_per_epoch"):
        assert set(plan[name]) >= RANGE
        assert plan[name]["low"] <= plan[name]["expected"] <= plan[name]["high"]
    assert set(plan["disk_gib"]["items"]) == {
        "download", "quantised_weights", "checkpoints", "adapter", "corpus",
    }  # fmt: skip
    assert len(plan["cost"]["offers"]) > 20


def test_the_text_says_the_verdict_first_and_draws_the_memory(capsys):
    text = run(capsys, "--files", "10000", "--gpu", "RTX 3060")
    assert text.startswith("fits: codellama/CodeLlama-7b-hf on RTX 3060.")
    bar = next(line for line in text.splitlines() if line.startswith("["))
    # Of 60 places, the weights' 3.1 of 11.3 GiB.
    assert bar.count("W") == pytest.approx(60 * 3.11 / 11.3, abs=1)
    assert bar.index("]") == 61
    for words in ("One epoch", "In all", "Electricity", "Kaggle GPU T4 x2", "projected", "Prices"):
        assert words in text


def test_a_plan_that_does_not_fit_is_a_plan(capsys):
    arguments = ("--files", "100", "--gpu", "RTX 2060 6GB")
    plan = planned(capsys, *arguments)
    assert plan["verdict"] == "does_not_fit"
    assert plan["nearest"]["changes"]["model"] != "codellama/CodeLlama-7b-hf"
    text = run(capsys, *arguments)
    assert text.startswith("does not fit: ")
    assert "Nearest that fits: " in text


def test_a_configuration_is_planned_as_it_is(capsys, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("batch_size = 16\nuse_4bit = false\n", encoding="utf-8")
    plan = planned(capsys, "--files", "9", "--gpu", "RTX 3060", "--config", str(file))
    assert (plan["config"]["batch_size"], plan["verdict"]) == (16, "does_not_fit")
    assert plan["nearest"]["changes"]["use_4bit"] is True


def test_a_plan_in_fp16_on_a_processor_says_what_its_hours_leave_out(capsys, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('precision = "fp16"\n', encoding="utf-8")
    arguments = ("--files", "10", "--model", "starter", "--config", str(file))
    slow = "A processor emulates fp16"
    on_t4, here = planned(capsys, *arguments, "--gpu", "T4"), planned(capsys, *arguments)
    assert not any(slow in note for note in on_t4["notes"])
    without_gpu = here["peak_vram_gib"]["expected"] == 0
    assert any(slow in note for note in here["notes"]) == without_gpu


def test_a_name_of_several_gpus_takes_the_smallest_and_says_so(capsys):
    plan = planned(capsys, "--files", "9", "--gpu", "A100")
    assert plan["device"] == "A100 PCIe 40GB"
    assert any("'A100' fits" in note for note in plan["notes"])


def test_the_price_of_electricity(capsys):
    arguments = ("--files", "1000", "--gpu", "RTX 3060", "--price-per-kwh")
    dear, cheap = (planned(capsys, *arguments, price)["cost"] for price in ("0.4", "0.1"))
    assert dear["expected"] == pytest.approx(4 * cheap["expected"])
    assert dear["electricity_kwh"] == cheap["electricity_kwh"]


def test_all_gpus_and_all_models(capsys):
    gpus = planned(capsys, "--files", "1000", "--gpu", "RTX 4090", "--compare")["compared"]
    assert len(gpus) > 60
    assert {one["model"] for one in gpus} == {"codellama/CodeLlama-7b-hf"}
    models = planned(capsys, "--files", "9", "--gpu", "RTX 4090", "--all-models")["compared"]
    verdicts = {one["model"]: one["verdict"] for one in models}
    assert verdicts["starter"] == "fits"
    assert verdicts["codellama/CodeLlama-34b-hf"] == "does_not_fit"
    text = run(capsys, "--files", "1000", "--gpu", "RTX 4090", "--compare")
    assert "RTX 3060 Laptop" in text
    assert "RTX 3060 Laptop  …" not in text


def test_a_tree_is_counted(capsys, source_tree):
    plan = planned(capsys, str(source_tree), "--gpu", "T4")
    files = len(list(source_tree.rglob("*.py")))
    assert plan["files"] == pytest.approx(files, abs=3)
    size = sum(path.stat().st_size for path in source_tree.rglob("*.py"))
    assert 0.2 * size < plan["tokens"]["low"] < plan["tokens"]["high"] < 0.4 * size
    assert any("3.2 bytes a token" in note for note in plan["notes"])


def test_this_machine_is_the_default(capsys):
    plan = planned(capsys, "--files", "10", "--model", "starter")
    assert (plan["model"], plan["hours"]["low"] > 0) == ("starter", True)


@pytest.mark.parametrize(
    ("arguments", "words", "exit_code"),
    [
        ([], "repotune plan --files N", 2),
        (["x", "--files", "3"], "or say how much code", 2),
        (["x", "--tokens-per-file", "3"], "goes with --files", 2),
        (["--files", "0"], "'--files'", 2),
        (["--files", "9", "--tokens-per-file", "-1"], "'--tokens-per-file'", 2),
        (["--files", "9", "--price-per-kwh", "0"], "'--price-per-kwh'", 2),
        (["--files", "9", "--gpu", "RTX 306"], "perhaps RTX 3060", 2),
        (["--files", "9", "--gpu", "H100", "--compare", "--all-models"], "one at a time", 2),
        (["--files", "9", "--config", "absent.toml"], "absent.toml cannot be read", 2),
        (["--files", "9", "--model", "codellama/CodeLlama-7b"], "perhaps codellama/", 1),
        (["--files", "9", "--model", "."], "has no config.json", 1),
        (["absent", "--gpu", "T4"], "absent does not exist", 1),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence(arguments, words, exit_code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *arguments]) == exit_code
    said = capsys.readouterr()
    assert words in said.err
    error = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert said.out == ""


def test_an_architecture_that_cannot_be_trained_is_refused_by_name(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert main(["plan", "--files", "9", "--model", str(tmp_path), "--gpu", "T4"]) == 1
    assert "'gpt2'" in capsys.readouterr().err


def test_an_empty_tree_is_an_error(capsys, tmp_path):
    assert main(["plan", str(tmp_path), "--gpu", "T4"]) == 1
    assert "holds no code" in capsys.readouterr().err


def test_without_a_tree_nothing_heavy_is_imported_and_it_is_quick(tmp_path: Path):
    code = (
        "import sys; from repotune.cli import main; "
        "main(['plan', '--files', '10000']); print(*sys.modules, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert not {"torch", "pyarrow", "huggingface_hub"} & set(done.stderr.split())
    # 0.5 s on an idle machine; the tests' may be busy.
    assert time.perf_counter() - start < 5
