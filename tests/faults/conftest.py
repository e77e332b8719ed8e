"""Runs of a tiny random model that something is done to, and a list of what was done."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).with_name("server.py")
DONE = pytest.StashKey[list[str]]()


class Runs:
    """Talks to ``server.py``."""

    def __init__(self, process: subprocess.Popen[str], place: Path) -> None:
        self._process, self._place, self._count = process, place, 0

    def new_folder(self) -> Path:
        self._count += 1
        return self._place / str(self._count) / "run"

    def do(self, folder: Path, **what: Any) -> dict[str, Any]:
        """Begin or go on with the run in ``folder``; see ``server.py``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder.parent.mkdir(exist_ok=True)
        self._process.stdin.write(json.dumps({"folder": str(folder), **what}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert answer["code"] != 3, answer["error"]  # a bug of ours, not a sentence
        return answer

    def copy(self, folder: Path) -> Path:
        """The run in ``folder`` once more, whole."""
        new = self.new_folder()
        shutil.copytree(folder, new)
        return new


@pytest.fixture(scope="module")
def start_runs(
    tiny_model: Path, source_tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Runs]]:
    """Starts servers, which work side by side."""
    tree = tmp_path_factory.mktemp("few-files")
    shutil.copytree(source_tree / "json", tree / "json")
    shutil.copytree(source_tree / "html", tree / "html")
    command = [sys.executable, "-W", "ignore", str(SERVER), str(tiny_model), str(tree)]
    with ExitStack() as stack:

        def start() -> Runs:
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return Runs(process, tmp_path_factory.mktemp("runs"))

        yield start


@pytest.fixture(scope="module")
def runs(start_runs: Callable[[], Runs]) -> Runs:
    return start_runs()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note a sentence for the end of the session."""
    done = request.config.stash.setdefault(DONE, [])
    return done.append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for sentence in config.stash.get(DONE, []):
        terminalreporter.write_line(sentence)
