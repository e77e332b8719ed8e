"""`repotune requirements`: the page in two languages and three forms, and the one in docs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repotune.cli import main
from repotune.tables import gpus, page_claims

DOCS = Path(__file__).parents[2] / "docs"


def run(capsysbinary, *arguments):
    assert main(["requirements", *arguments]) == 0
    return capsysbinary.readouterr().out.decode("utf-8")


@pytest.mark.parametrize(
    ("lang", "name"), [("en", "requirements.md"), ("ko", "requirements.ko.md")]
)
def test_the_pages_in_docs_are_up_to_date(lang, name, capsysbinary):
    text = run(capsysbinary, "--lang", lang)
    assert (DOCS / name).read_text(encoding="utf-8") == text, "run `make docs`"


def test_the_page_is_the_same_each_time_and_anywhere(capsysbinary, tmp_path, monkeypatch):
    first = run(capsysbinary, "--format", "html")
    monkeypatch.chdir(tmp_path)
    assert run(capsysbinary, "--format", "html") == first


@pytest.mark.parametrize("flag", [["--format", "json"], ["--json"]])
def test_one_object_for_programs(flag, capsysbinary):
    page = json.loads(run(capsysbinary, *flag))
    assert page["model"] == "codellama/CodeLlama-7b-hf"
    assert len(page["gpus"]) == len(gpus())
    assert len(page["comparisons"]) == len(page_claims())
    for row in page["gpus"]:
        low, expected, high = (row["vram_gib"][name] for name in ("low", "expected", "high"))
        assert 0 < low < expected < high


def test_the_object_has_the_same_figures_in_korean(capsysbinary):
    english, korean = (json.loads(run(capsysbinary, "--json", "--lang", x)) for x in ("en", "ko"))
    for one, other in zip(english.pop("comparisons"), korean.pop("comparisons"), strict=True):
        assert one["ours"] == other["ours"]
        assert (one["why"] is None) == (other["why"] is None)
        assert one["why"] is None or one["why"] != other["why"]
    assert (english.pop("lang"), korean.pop("lang")) == ("en", "ko")
    assert english == korean


def test_into_a_file(capsysbinary, tmp_path):
    file = tmp_path / "요구사항.html"
    assert run(capsysbinary, "--lang", "ko", "--format", "html", "-o", str(file)) == ""
    text = file.read_bytes()
    assert text.decode("utf-8").startswith("<!doctype html>")
    assert b"\r" not in text


def test_another_model(capsysbinary):
    text = run(capsysbinary, "--model", "qwen/qwen2.5-coder-1.5b")
    assert text.startswith("# System requirements: Qwen/Qwen2.5-Coder-1.5B\n")
    assert "only its clouds and its software are" in text


@pytest.mark.parametrize(
    ("arguments", "words", "exit_code"),
    [
        (["--model", "codellama/CodeLlama-7b"], "perhaps codellama/", 1),
        (["--model", "."], "has no config.json", 1),
        (["--lang", "de"], "'de' is not one of 'en', 'ko'", 2),
        (["--format", "pdf"], "'pdf' is not one of", 2),
        (["-o", "absent/page.md"], "No such file", 1),
    ],
)
def test_wrong_use_is_one_sentence(arguments, words, exit_code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["requirements", *arguments]) == exit_code
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ")
    assert said.out == ""


def test_a_model_in_a_folder(capsysbinary, tiny_model):
    text = run(capsysbinary, "--model", str(tiny_model))
    assert text.startswith(f"# System requirements: {tiny_model}\n")


def test_it_is_quick_and_imports_nothing_heavy(tmp_path: Path):
    code = (
        "import sys; from repotune.cli import main; "
        "main(['requirements']); print(*sys.modules, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path
    )
    assert not {"torch", "pyarrow", "huggingface_hub"} & set(done.stderr.decode().split())
    # 0.8 s on an idle machine; the tests' may be busy.
    assert time.perf_counter() - start < 6
