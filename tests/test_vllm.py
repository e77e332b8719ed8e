"""vLLM's program is found, started behind a socket, asked, and ended with all of its processes."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repotune.errors import ExportError
from repotune.local_http import UNIX
from repotune.vllm import VllmServer, find_vllm

from .vllm_stub import write_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run on Windows")

WANTED = {"name": "tuned", "context": 256, "slots": 2, "cached_token_bytes": 1000,
          "compiled": False}  # fmt: skip


def test_the_program_is_found_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_vllm() is None
    program = write_program(tmp_path / "bin")
    assert find_vllm() == program


def test_it_answers_behind_a_socket_that_nobody_else_may_reach(tmp_path):
    program = write_program(tmp_path / "bin")
    with VllmServer(program, tmp_path / "model", scratch=tmp_path, **WANTED) as server:
        assert server.version == "0.32.0"
        place = Path(server.address.removeprefix(UNIX))
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert server.post("/v1/completions", {"model": "tuned", "prompt": [1]})["choices"]
        with pytest.raises(ExportError, match=r"vLLM does not answer .*unknown"):
            server.post("/v1/completions", {"model": "other"})
        assert not server.has_ended
    assert server.has_ended
    assert not place.parent.exists()


def test_what_it_said_is_told_where_it_does_not_start(tmp_path):
    code = "import sys; print('INFO fine\\nValueError: no such model\\nmore', file=sys.stderr)"
    program = write_program(tmp_path / "bin", code)
    with pytest.raises(ExportError, match=r"does not serve model \(it said: ValueError: no such"):
        VllmServer(program, tmp_path / "model", scratch=tmp_path, **WANTED)


def test_its_processes_end_with_ours_even_if_that_is_killed(tmp_path):
    """It has a child of its own, as vLLM has, whose id is written where the test finds it."""
    told = tmp_path / "pid"
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"open({str(told)!r}, 'w').write(str(child.pid) + '\\n')\nmain()"
    )
    program = write_program(tmp_path / "bin", code)
    ours = (
        "from pathlib import Path\nfrom repotune.vllm import VllmServer\n"
        f"server = VllmServer(Path({str(program)!r}), Path('m'), scratch=Path({str(tmp_path)!r}), "
        f"**{WANTED!r})\nprint(server.address, flush=True)\ninput()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ours], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        place = Path(process.stdout.readline().decode().strip().removeprefix(UNIX))
        assert place.exists()
        child = int(told.read_text())
        assert is_alive(child)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    until = time.monotonic() + 10
    while is_alive(child) or place.parent.exists():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("whom", ["our group", "the process between"])
def test_a_signal_leaves_nothing_of_it(whom, number, tmp_path):
    """A closed terminal reaches our group, a service manager every process."""
    program = write_program(tmp_path / "bin")
    ours = (
        "from pathlib import Path\nfrom repotune.vllm import VllmServer\n"
        f"server = VllmServer(Path({str(program)!r}), Path('m'), scratch=Path({str(tmp_path)!r}), "
        f"**{WANTED!r})\nprint(server.address, server._process.pid, flush=True)\ninput()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ours], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        address, between = process.stdout.readline().decode().split()
        place = Path(address.removeprefix(UNIX))
        children = Path(f"/proc/{between}/task/{between}/children")
        vllm = int(children.read_text()) if children.exists() else int(between)
        if whom == "our group":
            os.killpg(process.pid, number)
        else:
            os.kill(int(between), number)
        until = time.monotonic() + 20
        while is_alive(vllm) or is_alive(int(between)) or place.parent.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()


def test_a_key_for_another_server_is_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "of another server")
    program = write_program(tmp_path / "bin")
    with VllmServer(program, tmp_path / "model", scratch=tmp_path, **WANTED) as server:
        assert server.post("/v1/completions", {"model": "tuned", "prompt": [1]})["choices"]


def is_alive(pid):
    """A process that has ended and waits for its parent is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
