"""Wrong use gets one sentence and exit code 2, failed work 1; programs get one JSON object."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click import Context

from repotune.cli import main
from repotune.cli.app import COMMANDS, repotune
from repotune.runs import RunFolder, create_run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_run(path: Path, tree: Path) -> RunFolder:
    return create_run(path, tree=tree, model="starter", config={}, config_toml="")


WRONG_USE = [
    (["tune"], "Name the folder to tune on"),
    (["tun"], "No such command 'tun'"),
    (["tune", "x", "y"], "unexpected extra argument"),
    (["tune", "x", "--max-step", "3"], "--max-steps"),
    (["tune", "x", "--batch-size", "four"], "'four' is not a valid integer"),
    (["tune", "x", "--batch-size", "0"], "batch_size = 0"),
    (["tune", "x", "--learning-rate", "nan"], "learning_rate = nan"),
    (["tune", "x", "--precision", "fp8"], "bf16"),
    (["tune", "x", "-o", ""], "output_dir = '' is not allowed"),
    (["tune", "x", "--target-modules", "q_proj,lm_head"], "target_modules = 'lm_head'"),
    (["tune", "x", "--heldout-share", "0"], "evaluate = true with heldout_share = 0"),
    (["tune", "x", "--config", "absent.toml"], "absent.toml cannot be read"),
    (["tune", "x", "--resume", "r", "--lora-r", "8", "--config", "c"], "x, --config, --lora-r"),
    (["evaluate"], "Missing argument 'RUN'"),
    (["evaluate", "r", "--eval-max-tokens", "0"], "'--eval-max-tokens'"),
    (["complete", "r"], "FILE:LINE[:COLUMN]"),
    (["complete", "r", "app.py"], "not a place in a file"),
    (["complete", "r", "app.py:0"], "counted from 1"),
    (["complete", "r", "app.py:3", "--max-new-tokens", "0"], "'--max-new-tokens'"),
    (["serve"], "Missing argument 'RUN'"),
    (["serve", "r", "--port", "0"], "'--port'"),
    (["serve", "r", "--ab", "--base"], "give one of them"),
    (["serve", "r", "--token", "a b c d e f"], "without spaces"),
    (["runs", "a", "b"], "unexpected extra argument"),
]
FAILED_WORK = [
    (["tune", "absent"], "absent does not exist"),
    (["tune", "--resume", "absent"], "absent is not a run"),
    (["evaluate", "absent"], "absent is not a run"),
    (["complete", "absent", "app.py:3"], "absent is not a run"),
    (["serve", "absent"], "absent is not a run"),
    (["runs", "absent"], "absent cannot be listed"),
]


@pytest.mark.parametrize(
    ("arguments", "words", "exit_code"),
    [(*case, 2) for case in WRONG_USE] + [(*case, 1) for case in FAILED_WORK],
)
def test_an_error_is_one_line_on_stderr_and_one_object_for_programs(
    arguments: list[str], words: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert words in said.err

    assert main([*arguments, "--json"]) == exit_code
    said = capsys.readouterr()
    assert set(json.loads(said.out)) == {"error", "kind"}
    assert said.err == f"error: {json.loads(said.out)['error']}\n"
    assert list(Path.cwd().iterdir()) == []


def test_the_settings_are_checked_before_the_tree_is_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["tune", "absent", "--max-steps", "0"]) == 2
    assert "max_steps = 0" in capsys.readouterr().err


def test_flags_go_before_the_file_and_the_file_before_the_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("c.toml").write_text("heldout_share = 0\nbatch_size = 0\n", encoding="utf-8")
    file = ["tune", "absent", "--config", "c.toml"]
    assert main(file) == 2
    assert "batch_size = 0" in capsys.readouterr().err
    assert main([*file, "--batch-size", "1"]) == 2
    assert "heldout_share = 0" in capsys.readouterr().err
    assert main([*file, "--batch-size", "1", "--no-evaluate"]) == 1
    assert "absent does not exist" in capsys.readouterr().err


def test_the_list_of_commands_is_what_the_commands_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    bare = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    context = Context(repotune)
    for name, line in COMMANDS.items():
        command = repotune.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=200) == line
        assert line in bare


@pytest.mark.parametrize("module", ["repotune", "repotune.cli"])
def test_a_module_that_is_run_exits_as_the_command_does(module: str) -> None:
    command = [sys.executable, "-m", module, "tune"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 2
    command = [sys.executable, "-m", module, "tune", "absent"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"repotune {version('repotune')}\n"


def test_runs_lists_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert "No runs in" in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": []}

    make_run(tmp_path / "repotune-runs" / "first", tmp_path).update(
        "finished",
        {
            "training": {"steps": 75},
            "heldout_bits_per_byte": {"base": 1.25, "tuned": 1.0},
        },
    )
    damaged = make_run(tmp_path / "repotune-runs" / "second", tmp_path)
    damaged.run_json.write_text("{", encoding="utf-8")
    assert main(["runs"]) == 0
    table = capsys.readouterr().out
    assert "first   finished" in table
    assert "75           1.250 -> 1.000" in table
    assert "second  damaged" in table
    assert main(["runs", "repotune-runs", "--json"]) == 0
    listed = {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert listed["first"]["state"]["facts"]["training"]["steps"] == 75
    assert listed["second"]["status"] == "damaged"


def test_a_console_of_another_code_page_shows_what_it_can(tmp_path: Path) -> None:
    tree = tmp_path / "장바구니 \U0001f6d2"
    tree.mkdir()
    make_run(tmp_path / "repotune-runs" / "first", tree)
    done = subprocess.run(
        [sys.executable, "-m", "repotune.cli", "runs"],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "cp949", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "장바구니 ?" in done.stdout.decode("cp949")


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "repotune.cli", "tune", "--help"],
            check=False,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
