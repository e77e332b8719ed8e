"""`repotune doctor` on this machine: the table, the object for programs, the exit code."""

import json
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len

from repotune.cli import main
from repotune.cli.doctor import finding_text, model_cache
from repotune.records import Check

without_gpu = not torch.cuda.is_available()


def test_programs_get_every_line_and_the_exit_code_says_whether_it_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["doctor", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert code == (0 if shown["starts"] else 1)
    checks = {check["key"]: check for check in shown["checks"]}
    assert shown["starts"] == all(check["finding"] != "missing" for check in checks.values())
    assert {"system", "cpu", "python", "torch", "cuda", "driver", "gpu", "ram"} <= set(checks)
    assert {"disk_models", "disk_runs", "model", "bitsandbytes", "triton"} <= set(checks)
    assert checks["torch"]["value"] == torch.__version__
    assert checks["python"]["finding"] == "ok"
    if without_gpu and checks["driver"]["finding"] == "note":
        assert shown["model"] == "starter"
        assert "layer" not in checks
    if not without_gpu:
        assert checks["layer"]["finding"] == "ok"


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_people_get_a_table_of_a_hundred_columns(
    lang: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--lang", lang])
    text = capsys.readouterr().out
    table, _, below = text.partition("\n\n")
    assert all(cell_len(line) <= 100 for line in table.splitlines())
    heading = table.splitlines()[0]
    assert ("현재" in heading) == (lang == "ko")
    assert "PyTorch" in table
    assert "repotune tune PATH" in below.splitlines()[-1]


def test_an_unknown_language_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--lang", "fr"]) == 2
    assert "'en', 'ko'" in capsys.readouterr().err


def test_a_fix_stands_whole_on_a_line_of_its_own() -> None:
    check = Check(
        key="cuda",
        label="CUDA",
        value="none",
        needed="",
        page=("", "", ""),
        finding="missing",
        reason="It is a CPU build.",
        fix="pip install " + "x" * 200,
    )
    assert finding_text(check, "missing").splitlines() == [
        "missing: CUDA: It is a CPU build.",
        "    pip install " + "x" * 200,
    ]


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, Path("/a")),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, Path("/b/hub")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/huggingface/hub")),
        ({}, Path.home() / ".cache" / "huggingface" / "hub"),
    ],
)
def test_models_lie_where_the_hubs_library_puts_them(environment, path) -> None:
    assert model_cache(environment) == path
