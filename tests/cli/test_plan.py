"""`repotune plan`: 0 whatever the verdict, one sentence for wrong use, JSON for programs."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repotune.cli import main
from repotune.machine import driver

RANGE = {"low", "expected", "high"}

MODEL_33B = "deepseek-ai/deepseek-coder-33b-base"


@pytest.fixture
def no_driver(monkeypatch):
    """Whatever the machine of the test has: as if no NVIDIA driver answered."""
    monkeypatch.setattr(driver, "ask_driver", lambda: None)


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
    assert re.search(r"^Precision +bf16", text, re.MULTILINE)
    assert "use_4bit = true" in " ".join(text.split())


def offers_in(text):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("CLOUD OFFER"))
    end = next(i for i, line in enumerate(lines) if "more offers" in line)
    return lines[start + 1 : end], lines[end]


def test_a_few_offers_are_shown_the_free_and_the_cheapest(capsys):
    arguments = ("--files", "10000", "--gpu", "RTX 3060")
    shown, rest = offers_in(run(capsys, *arguments))
    assert len(shown) == 8
    assert [" free " in line for line in shown] == [True] * 3 + [False] * 5
    fitting = [
        one
        for one in planned(capsys, *arguments)["cost"]["offers"]
        if one["verdict"] != "does_not_fit"
    ]
    assert rest.startswith(f"{len(fitting) - 8} more offers")
    cheapest = min(one["money"]["expected"] for one in fitting if one["money"]["expected"])
    dollars = [float(re.search(r"([\d.]+) to [\d.]+ USD", line)[1]) for line in shown[3:]]
    assert dollars == sorted(dollars)
    assert dollars[0] < cheapest


def test_without_a_gpu_the_offers_are_for_the_job_that_a_gpu_would_do(capsys, no_driver):
    text = run(capsys, "--files", "10000")
    assert text.startswith("fits: starter on ")
    words = "takes codellama/CodeLlama-7b-hf (--model starter keeps this one)"
    assert words in " ".join(text.split())
    assert "use_4bit" not in text
    assert re.search(r"^GPU memory +none", text, re.MULTILINE)
    assert not re.search(r"0\.0 to 0\.\d", text)
    plan = planned(capsys, "--files", "10000")
    assert (plan["model"], plan["config"]["use_4bit"]) == ("starter", False)
    assert {one["model"] for one in plan["cost"]["offers"]} == {"codellama/CodeLlama-7b-hf"}
    named = planned(capsys, "--files", "10000", "--model", "starter")
    assert {one["model"] for one in named["cost"]["offers"]} == {"starter"}
    # The small model is done in minutes there, and that is how it is said.
    assert "minutes" in "".join(offers_in(run(capsys, "--files", "1000", "--model", "starter"))[0])


@pytest.mark.parametrize("gpu", ["T4", "V100 PCIe 16GB", "P100 PCIe", "RTX 2070"])
def test_a_card_without_bf16_is_planned_in_fp16(gpu, capsys):
    text = run(capsys, "--files", "100", "--gpu", gpu)
    assert re.search(r"^Precision +fp16", text, re.MULTILINE)
    assert "bf16" not in text


def test_a_plan_that_does_not_fit_is_a_plan(capsys):
    arguments = ("--files", "100", "--gpu", "RTX 2060 6GB", "--model", MODEL_33B)
    plan = planned(capsys, *arguments)
    assert plan["verdict"] == "does_not_fit"
    assert plan["nearest"]["changes"]["model"] == "Qwen/Qwen2.5-Coder-3B"
    for name in ("hours", "hours_per_epoch", "tokens_per_second", "cost"):
        assert plan[name]["expected"] is None
    text = run(capsys, *arguments)
    assert text.startswith("does not fit: ")
    assert "Nearest that fits: " in text
    assert "(licence: qwen-research)" in " ".join(text.split())
    assert "0.0 minutes" not in text


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "RTX 3060"], "the preset of the requirements page for the RTX 3060"),
        (["--gpu", "T4"], "the planner's: the longest rows that fit"),
        (["--gpu", "RTX 3060", "--model", "Qwen/Qwen2.5-Coder-1.5B"], "the planner's"),
        (["--gpu", "RTX 3060", "--config", "c.toml"], "those that were given"),
    ],
)
def test_it_is_said_where_the_settings_come_from(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("batch_size = 1\n", encoding="utf-8")
    notes = planned(capsys, "--files", "9", *arguments)["notes"]
    assert sum("settings are" in note and words in note for note in notes) == 1
    too_large = ("--gpu", "RTX 2060 6GB", "--model", MODEL_33B)
    nothing_fits = planned(capsys, "--files", "9", *too_large)["notes"]
    assert not any("settings are" in note for note in nothing_fits)


def test_a_name_of_several_gpus_takes_the_smallest_and_says_so(capsys):
    plan = planned(capsys, "--files", "9", "--gpu", "A100")
    assert plan["device"] == "A100 PCIe 40GB"
    assert any("'A100' fits" in note for note in plan["notes"])


def test_the_price_of_electricity(capsys):
    arguments = ("--files", "1000", "--gpu", "RTX 3060", "--price-per-kwh")
    dear, cheap = (planned(capsys, *arguments, price)["cost"] for price in ("0.4", "0.1"))
    assert dear["expected"] == pytest.approx(4 * cheap["expected"])
    assert dear["electricity_kwh"] == cheap["electricity_kwh"]
    too_large = ("--gpu", "RTX 2060 6GB", "--model", MODEL_33B)
    assert "a kWh" not in run(capsys, "--files", "1000", *too_large)
    low, high = (f"{dear[end]:.2f}" for end in ("low", "high"))
    assert f"at 0.4 a kWh {low} to {high}" in run(capsys, *arguments, "0.4")


def test_an_offer_that_cannot_do_it_has_no_hours_and_is_not_shown(capsys):
    arguments = ("--files", "10", "--gpu", "H200", "--model", "Qwen/Qwen2.5-Coder-32B")
    offers = planned(capsys, *arguments)["cost"]["offers"]
    for one in offers:
        unable = one["verdict"] == "does_not_fit"
        assert (one["hours"]["expected"] is None, one["money"]["low"] is None) == (unable, unable)
    assert any(one["verdict"] == "does_not_fit" for one in offers)
    assert "T4" not in run(capsys, *arguments).partition("CLOUD OFFER")[2]


def test_all_gpus_and_all_models(capsys):
    gpus = planned(capsys, "--files", "1000", "--gpu", "RTX 4090", "--compare")["compared"]
    assert len(gpus) > 60
    assert {one["model"] for one in gpus} == {"codellama/CodeLlama-7b-hf"}
    arguments = ("--files", "1000", "--model", MODEL_33B, "--compare")
    unable = [
        one for one in planned(capsys, *arguments)["compared"] if one["verdict"] == "does_not_fit"
    ]
    assert unable
    assert all(one["hours"]["low"] is None for one in unable)
    models = planned(capsys, "--files", "9", "--gpu", "RTX 4090", "--all-models")["compared"]
    verdicts = {one["model"]: one["verdict"] for one in models}
    assert verdicts["starter"] == "fits"
    assert verdicts["Qwen/Qwen2.5-Coder-32B"] == "does_not_fit"
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
        (["--files", "0"], "--files", 2),
        (["--files", "-1"], "--files", 2),
        (["--files", "9", "--tokens-per-file", "-3"], "--tokens-per-file", 2),
        (["--files", "9", "--price-per-kwh", "-1"], "--price-per-kwh", 2),
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
