"""Who makes Q4_K_M where, and what is said where nobody can."""

import stat
import sys
from pathlib import Path

import pytest

from repotune.errors import ExportError
from repotune.export import find_program, quantiser, run_program


def program(folder: Path, body: str) -> Path:
    path = folder / "llama-quantize"
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_function_comes_first_then_the_users_program(tmp_path, monkeypatch):
    found = program(tmp_path, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program() is None
    monkeypatch.setattr(quantiser, "can_quantise", lambda: False)
    assert find_program() == found


def test_where_neither_is_there_q8_0_is_offered(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(quantiser, "can_quantise", lambda: False)
    with pytest.raises(ExportError, match=r"repotune\[gguf\].*llama-quantize.*q8_0"):
        find_program()


def test_the_program_is_given_the_files_and_the_type(tmp_path):
    copy = "from pathlib import Path\n_, a, b, kind = sys.argv\n"
    copy += "Path(b).write_text(Path(a).read_text() + kind)"
    source, out = tmp_path / "f16.gguf", tmp_path / "out.gguf"
    source.write_text("weights ")
    run_program(program(tmp_path, copy), source, out)
    assert out.read_text() == "weights Q4_K_M"
    assert not source.exists()


def test_a_program_that_fails_is_quoted(tmp_path):
    failing = program(tmp_path, "sys.exit('unknown model architecture')")
    with pytest.raises(ExportError, match=r"exit code 1.*unknown model architecture.*q8_0"):
        run_program(failing, tmp_path / "f16.gguf", tmp_path / "out.gguf")
