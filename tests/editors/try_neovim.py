"""Neovim's plugins against `repotune serve`: a person types, sees ghost text, takes it and saves.

    python tests/editors/try_neovim.py RUN --llama-vim FOLDER --minuet FOLDER [--nvim nvim]

A real Neovim without a screen is loaded with the settings that `repotune serve --write-config`
writes, and typed into through its own remote control; the plugin's `curl` is a program that keeps
what it sends and gets. Passed means: the text stood there as ghost text, and the saved file differs
from the one that was opened by exactly what the server answered. `--record FOLDER` keeps the
requests as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repotune.serve import serve

OPENED = Path(__file__).parents[2] / "src" / "repotune" / "runs" / "listing.py"
GAPS = ("    return ", "    for ", "    if ", "        theirs = ", "    stopped = ")
"""A line that begins so loses its rest, and there the cursor stands. A model may have nothing to
say in one gap, so they are tried in turn."""
SECONDS = 30
CURL = f"""#!{sys.executable}
import json, pathlib, signal, subprocess, sys
here, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
body = next((a[1:] for a in arguments if a.startswith("@") and a != "@-"), None)
sent = pathlib.Path(body).read_bytes() if body else sys.stdin.buffer.read()
real = subprocess.Popen(
    [REAL, *("@-" if a == f"@{{body}}" else a for a in arguments)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)
signal.signal(signal.SIGTERM, lambda *_: real.terminate())
real.stdin.write(sent)
real.stdin.close()
got = b""
while piece := real.stdout.read1(65536):
    got += piece
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
with (here / "requests.jsonl").open("a") as file:
    line = {{"arguments": arguments, "sent": json.loads(sent), "got": got.decode()}}
    file.write(json.dumps(line) + "\\n")
sys.exit(real.wait())
"""


@dataclass(frozen=True, slots=True)
class Plugin:
    """How a person uses it, and where its ghost text stands."""

    name: str
    settings: str
    namespace: str
    accept: str
    text: Callable[[str], str]
    """What came over the wire -> the text that it means."""
    is_asked: Callable[[dict[str, Any]], bool]
    """Whether a request is one for what stands at the cursor."""


def _text_of_events(answer: str) -> str:
    events = [line[6:] for line in answer.splitlines() if line.startswith("data: {")]
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


LLAMA_VIM = Plugin(
    "llama.vim", "neovim/llama_vim.lua", "vt_fim", "<Tab>",
    # It leaves empty lines at the end out.
    lambda answer: str(json.loads(answer).get("content", "")).rstrip("\n"),
    lambda sent: bool(sent["n_predict"]),
)  # fmt: skip
MINUET = Plugin(
    "minuet-ai.nvim", "neovim/minuet.lua", "minuet.virtualtext", "<A-A>",
    _text_of_events, lambda sent: True,
)  # fmt: skip


class Neovim:
    """A running one; keys and expressions go through its own remote control."""

    def __init__(self, program: str, socket: Path) -> None:
        self._program, self._socket = program, socket

    def remote(self, *arguments: str) -> str:
        """What it answers to ``--remote-…``."""
        command = [self._program, "--server", str(self._socket), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    def keys(self, keys: str) -> None:
        """Press them."""
        self.remote("--remote-send", keys)

    def ghost_text(self, namespace: str) -> str:
        """The virtual text of a namespace, as lines; empty while there is none."""
        lua = (
            "(function() local first, rest = {}, {}; "
            f"local space = vim.api.nvim_create_namespace('{namespace}'); "
            "for _, mark in ipairs(vim.api.nvim_buf_get_extmarks(0, space, 0, -1, "
            "{details = true})) do local about = mark[4]; "
            "if about.virt_text then table.insert(first, about.virt_text[1][1]) end; "
            "for _, line in ipairs(about.virt_lines or {}) do "
            "table.insert(rest, line[1] and line[1][1] or '') end end; "
            "return table.concat(vim.list_extend(first, rest), '\\n') end)()"
        )
        return self.remote("--remote-expr", f"luaeval({json.dumps(lua)})").rstrip("\n")


@contextmanager
def neovim(program: str, folder: Path, plugin: Path, settings: Path, opened: Path):
    """Started as a person's would be, but for their own settings."""
    real = shutil.which("curl")
    assert real, "both plugins ask by curl: install it"
    curl = folder / "curl"
    curl.write_text(CURL.replace("REAL", repr(real), 1))
    curl.chmod(0o755)
    init = folder / "init.lua"
    init.write_text(
        f"vim.opt.rtp:prepend({json.dumps(str(plugin))})\n"
        f"dofile({json.dumps(str(settings))})\n"
        "vim.cmd('filetype plugin indent off | filetype on')\n"
    )
    socket = folder / "socket"
    log = (folder / "messages").open("w")
    process = subprocess.Popen(
        [program, "--headless", "--clean", "-n", "-u", init, "--listen", socket, opened],
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        wait(socket.exists, "Neovim does not start")
        yield Neovim(program, socket)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        log.close()


def wait(ready: Callable[[], object], why_not: str) -> None:
    """Look twenty times a second. Raises TimeoutError."""
    end = time.monotonic() + SECONDS
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(why_not)
        time.sleep(0.05)


def gap(code: str, begins: str) -> tuple[str, str, int]:
    """Code before and after the cursor, and its line's number from 1."""
    lines = code.splitlines(keepends=True)
    number = next(at for at, line in enumerate(lines) if at > 35 and line.startswith(begins))
    return "".join(lines[:number]) + begins, "\n" + "".join(lines[number + 1 :]), number + 1


def complete(
    plugin: Plugin, program: str, source: Path, settings: Path, begins: str
) -> tuple[str, list[dict[str, Any]]]:
    """Type, take and save. The text that was taken, and every request. Raises AssertionError."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        before, after, line = gap(OPENED.read_text("utf-8"), begins)
        opened = folder / "opened.py"
        opened.write_text(before + after, "utf-8")
        with neovim(program, folder, source, settings / plugin.settings, opened) as editor:
            editor.keys(f"{line}GA")
            with suppress(TimeoutError):
                wait(lambda: editor.ghost_text(plugin.namespace).strip(), "")
            shown = editor.ghost_text(plugin.namespace)
            if "\n" in shown and plugin is MINUET:
                shown = shown[:-1]  # before the number of a text among several, here none
            requests = asked(folder / "requests.jsonl")
            answers = [plugin.text(one["got"]) for one in requests if plugin.is_asked(one["sent"])]
            assert shown.strip(), f"no ghost text, answered {answers!r}"
            assert shown in answers, f"shown {shown!r}, answered {answers!r}"
            editor.keys(plugin.accept)
            editor.keys("<Esc>:w<CR>")
            wait(lambda: opened.read_text("utf-8") != before + after, "the file was not saved")
        saved, requests = opened.read_text("utf-8"), asked(folder / "requests.jsonl")
    assert saved == before + shown + after, f"saved {saved!r}"
    return shown, requests


def asked(record: Path) -> list[dict[str, Any]]:
    """What went over the wire."""
    lines = record.read_text("utf-8").splitlines() if record.exists() else []
    return [json.loads(line) for line in lines]


def tried(plugin: Plugin, program: str, source: Path, settings: Path) -> list[dict[str, Any]]:
    """Its requests in the first gap where the model has something to say."""
    for begins in GAPS:
        try:
            shown, requests = complete(plugin, program, source, settings, begins)
        except AssertionError as error:
            print(f"{plugin.name}: after {begins!r}: {error}")
            continue
        print(f"{plugin.name}: after {begins!r} took and saved {shown!r}")
        return requests
    raise SystemExit(f"{plugin.name}: in no gap was there a text that could be taken")


def main() -> None:
    """Serve RUN and try what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--nvim", default="nvim")
    parser.add_argument("--llama-vim", type=Path)
    parser.add_argument("--minuet", type=Path)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    sources = {LLAMA_VIM: given.llama_vim, MINUET: given.minuet}
    if not any(sources.values()):
        parser.error("name a plugin's folder with --llama-vim or --minuet")
    subprocess.run([given.nvim, "--version"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder)
        with serve(given.run, port=0, write_config=settings):
            for plugin, source in sources.items():
                if source is None:
                    continue
                requests = tried(plugin, given.nvim, source.resolve(), settings)
                if given.record:
                    given.record.mkdir(parents=True, exist_ok=True)
                    text = json.dumps(requests, indent=1, ensure_ascii=False)
                    (given.record / f"{plugin.name}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
