"""vLLM, where its program is installed; the only file that knows it.

It is a program of its own, mostly in an environment of its own, so it is found on PATH and asked
over HTTP. It listens on a socket in a folder that only this user may enter: several of its paths
ask for no key, and it would answer web pages. A second process of ours stands between: it ends vLLM
with all of its processes when this one ends, however that happens.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from repotune.errors import ExportError
from repotune.local_http import connection_to, socket_address

PROGRAM: Final = "vllm"
LIKELY: Final = 50
"""Most likely tokens that can be asked for at a place; vLLM allows 20 if it is not told."""
START_SECONDS: Final = 900.0
"""Importing takes half a minute on a slow CPU, loading and compiling a 7B some minutes."""
LOOK_SECONDS: Final = 0.2
END_SECONDS: Final = 10.0
"""To free what it holds; then it is killed."""
LOG_TAIL: Final = 400
"""Characters of vLLM's log that an error shows."""
NO_GPU_SHARE: Final = "0.05"
"""vLLM wants this part of the GPU's memory to be free before it looks at the cache's size, which is
given, so that a second model finds room beside the first."""
SPARE: Final = 512
"""Tokens of room beside a request's, since vLLM hands out whole blocks and keeps one."""
ENVIRONMENT: Final = (
    "-u", "VLLM_API_KEY",
    "VLLM_NO_USAGE_STATS=1", "VLLM_HOST_IP=127.0.0.1", "HF_HUB_OFFLINE=1",
)  # fmt: skip
"""As ``env`` takes it. It sends nothing about anybody, its own processes talk on loopback, and the
key that a user has for another server of vLLM's is not asked for at this one."""


class NotServed(ExportError):
    """vLLM does not start, or does not answer."""

    def __init__(self, message: str, said: str) -> None:
        """``said`` is what it told of the reason."""
        super().__init__(message)
        self.said = said


def find_vllm() -> Path | None:
    """The program, beside this Python or on PATH; None where there is none, as on Windows."""
    if sys.platform == "win32":
        return None
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    return Path(found) if found else None


class VllmServer:
    """vLLM's HTTP server for a folder in Hugging Face layout. Leaving the block stops it."""

    def __init__(
        self, program: Path, model: Path, *, name: str, context: int, slots: int,
        cached_token_bytes: int, compiled: bool, scratch: Path,
    ) -> None:  # fmt: skip
        """Start it and wait until the model is loaded.

        ``name`` is the model's in requests, ``context`` its tokens of prompt and answer in each of
        ``slots`` requests at a time, ``cached_token_bytes`` what keys and values of one take;
        ``compiled`` makes it faster, after a longer start; ``scratch`` is an existing folder for
        the log.
        Raises NotServed if it does not.
        """
        self._log = scratch / f"vllm-{name}.log"
        # A socket's path may have about a hundred characters, so it lies where paths are short.
        self._folder = Path(tempfile.mkdtemp(prefix="vllm-"))
        place = self._folder / "s"
        self.address = socket_address(place)
        command = [
            "env", *ENVIRONMENT, f"TMPDIR={self._folder}", str(program), "serve", str(model),
            "--served-model-name", name, "--uds", str(place), "--max-model-len", str(context),
            "--max-num-seqs", str(slots), "--max-logprobs", str(LIKELY),
            "--kv-cache-memory-bytes", str(cached_token_bytes * (context + SPARE) * slots),
            "--gpu-memory-utilization", NO_GPU_SHARE,
            "--disable-uvicorn-access-log",
            # A base's own defaults, such as a repetition penalty, are for its chats.
            "--generation-config", "vllm",
            *(() if compiled else ("--enforce-eager",)),
        ]  # fmt: skip
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from repotune.vllm import watch; watch()"],
                stdin=subprocess.PIPE, stdout=out, stderr=out,
                # A terminal's signals end us: then it ends by the pipe, and vLLM before it.
                start_new_session=True,
            )  # fmt: skip
        try:
            self._say(command)
            self.version = self._ready(model)
        except BaseException:
            self.close()
            raise

    def _say(self, command: list[str]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended: who waits for it will see
            self._process.stdin.write(json.dumps([str(self._folder), command]).encode() + b"\n")
            self._process.stdin.flush()

    def _ready(self, model: Path) -> str:
        """vLLM's version, once it answers."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and not self.has_ended:
            with suppress(OSError, http.client.HTTPException):
                return str(self._ask("GET", "/version", None, LOOK_SECONDS * 25)["version"])
            time.sleep(LOOK_SECONDS)
        said = self._said()
        raise NotServed(
            f"vLLM does not serve {model.name} (it said: {said}): see whether `vllm serve {model}` "
            "starts, and report it if it does.",
            said,
        )

    def _said(self) -> str:
        """Its first error, since it ends with many lines of where that went through."""
        log = self._log.read_text("utf-8", "replace")
        errors = [line for line in log.splitlines() if "Error: " in line]
        return " ".join((errors[0][:LOG_TAIL] if errors else f"… {log[-LOG_TAIL:]}").split())

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer. Raises NotServed if it does not take the request, or has ended."""
        try:
            return self._ask("POST", path, body, None)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotServed(
                f"vLLM does not answer {path} ({error}): try again, and report it, with this "
                "message.",
                str(error),
            ) from None

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float | None
    ) -> dict[str, Any]:
        connection = connection_to(self.address, seconds)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"{response.status}: {content}")
        return content

    def __enter__(self) -> VllmServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_ended(self) -> bool:
        """By itself, though nobody closed it."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it with all of its processes, whatever it is doing."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def watch() -> None:
    """The process between: reads a folder and a command, runs it, and ends it when nobody holds
    the pipe, or at a signal, which a service manager sends to every process; the folder goes with
    it."""
    if sys.platform == "win32":
        raise OSError("vLLM does not run on Windows")
    heard: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: heard.append(number))
    folder, command = json.loads(sys.stdin.readline())
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None and not heard:
            if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
                break
    finally:
        _end_group(process)
        shutil.rmtree(folder, ignore_errors=True)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """All processes that vLLM has started, also where it has ended itself."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
