"""llama.cpp, as the package ``xllamacpp`` carries it; the only file that knows that package.

Its library quantises rows where it exports llama.cpp's functions, which it does on Linux and macOS
and not on Windows. Its server answers questions about a GGUF file (``ask``), or stays and serves it
on loopback (``LlamaServer``), in a process of its own: what llama.cpp cannot load may end the
process, and what it writes on stderr goes into a file.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from repotune.errors import ExportError
from repotune.gguf_file import row_bytes, type_number

PACKAGE: Final = "xllamacpp"
QUANTISE: Final = "ggml_quantize_chunk"
CHUNK_NUMBERS: Final = 2**20
"""What one thread quantises at a time."""
LIKELY: Final = 500
"""In code, the token that really follows is nearly always among so many."""
LOG_TAIL: Final = 300
"""Characters of llama.cpp's log that an error shows."""
BATCH: Final = 64
"""Tokens of a prompt that a server reads at once. Between two batches it can be interrupted, which
must take less than a second on a CPU; there, larger ones are hardly faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What comes after ``ids``?"""

    ids: Sequence[int]
    new_tokens: int = 1
    """How many are written, the most likely one each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What llama.cpp says to a question."""

    ids: list[int]
    """The tokens it writes; fewer than asked for if it stops."""
    likely: dict[int, float]
    """The most likely first tokens and their log-probabilities, nats. Empty if the first token
    ends within a character: of such a one llama.cpp's server says no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What are the ids of ``text``? No BOS is put before it."""

    text: str
    special: bool
    """Whether the names of special tokens in it stand for these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One for each question, and the ids of each text."""

    questions: list[Answer]
    texts: list[list[int]]


def version() -> str | None:
    """The package's version, None where it is not installed."""
    return metadata.version(PACKAGE) if find_spec(PACKAGE) else None


def can_quantise() -> bool:
    """Whether ``quantise_rows`` works here."""
    return _quantiser() is not None


def quantise_rows(values: npt.NDArray[np.float32], quantisation: str) -> npt.NDArray[np.uint8]:
    """``values`` [rows, width] as llama.cpp quantises them, [rows, row's bytes]; on all cores."""
    function = _quantiser()
    assert function is not None
    rows, width = values.shape
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty((rows, row_bytes(width, quantisation)), np.uint8)
    number = type_number(quantisation)

    def chunk(first: int) -> None:
        part, stored = values[first : first + step], out[first : first + step]
        function(number, part.ctypes.data, stored.ctypes.data, 0, len(part), width, None)

    step = max(1, CHUNK_NUMBERS // width)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(chunk, range(0, rows, step)))
    return out


@cache
def _quantiser() -> Any:
    """llama.cpp's function, or None if it cannot be had."""
    if find_spec(PACKAGE) is None:
        return None
    try:
        from xllamacpp import xllamacpp

        function = ctypes.CDLL(xllamacpp.__file__)[QUANTISE]
    except (ImportError, OSError, AttributeError):
        # One that this system cannot load, or that exports nothing but Python's entry.
        return None
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    function.restype = ctypes.c_size_t
    return function


def ask(
    model: Path, questions: Sequence[Question], texts: Sequence[Text] = (), *,
    scratch: Path, likely: int = LIKELY,
) -> Answers:  # fmt: skip
    """Load the GGUF file ``model`` in llama.cpp and put questions to it.

    ``scratch`` is an existing folder for the question, the answer and the log; ``likely`` is how
    many of the most likely tokens an answer names. Raises ExportError if llama.cpp does not load
    the file or does not answer.
    """
    asked, answered, log = (scratch / name for name in ("asked.json", "answered.json", "log.txt"))
    request = {
        "model": str(model),
        "questions": [asdict(one) for one in questions],
        "texts": [asdict(one) for one in texts],
        "likely": likely,
    }
    asked.write_text(json.dumps(request), encoding="utf-8")
    code = f"from repotune.llama_cpp import answer; answer({str(asked)!r}, {str(answered)!r})"
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            check=False,
        )  # fmt: skip
    if done.returncode or not answered.exists():
        tail = " ".join(log.read_text("utf-8", "replace")[-LOG_TAIL:].split())
        raise ExportError(
            f"llama.cpp does not answer from {model.name} (exit code {done.returncode}; it said: "
            f"… {tail}): report it, with this message."
        )
    content = json.loads(answered.read_text(encoding="utf-8"))
    return Answers(
        questions=[
            Answer(
                ids=one["ids"],
                likely={int(token): value for token, value in one["likely"]},
            )
            for one in content["questions"]
        ],
        texts=content["texts"],
    )


def answer(asked: str, answered: str) -> None:
    """The other process of ``ask``: reads the file ``asked``, writes the file ``answered``."""
    import xllamacpp

    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    questions = request["questions"]
    key = os.urandom(16).hex()
    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_parallel, params.warmup, params.n_gpu_layers = 1, False, 0
    params.cpuparams.poll = 0  # threads that wait leave the cores to others
    params.hostnames, params.api_keys = ["127.0.0.1"], [key]
    longest = max((len(one["ids"]) + one["new_tokens"] for one in questions), default=0)
    params.n_ctx = longest + 8
    server = xllamacpp.Server(params)
    door = _Door(server.listening_address, key)
    content = {
        "questions": [_written(door, one, request["likely"]) for one in questions],
        "texts": [_tokenised(door, one) for one in request["texts"]],
    }
    Path(answered).write_text(json.dumps(content), encoding="utf-8")


class _Door:
    """llama.cpp's own HTTP door, on loopback, closed to whoever lacks the key."""

    def __init__(self, address: str, key: str) -> None:
        place = urlsplit(address)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._connection.request("POST", path, json.dumps(body).encode(), self._headers)
        response = self._connection.getresponse()
        content: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"{path}: {content}")
        return content


def _written(door: _Door, question: Mapping[str, Any], likely: int) -> dict[str, Any]:
    """The new tokens, and the most likely first ones with their log-probabilities."""
    answer = door.post(
        "/completion",
        {
            "prompt": question["ids"],
            "n_predict": question["new_tokens"],
            "n_probs": likely,
            "temperature": 0,
            "cache_prompt": True,
            "return_tokens": True,
        },
    )
    ids = answer["tokens"]
    said = answer.get("completion_probabilities") or []
    # A token that ends within a character is left out of the list.
    first = said[0]["top_logprobs"] if said and said[0]["id"] == ids[0] else []
    return {"ids": ids, "likely": [(one["id"], one["logprob"]) for one in first]}


def _tokenised(door: _Door, text: Mapping[str, Any]) -> list[int]:
    body = {"content": text["text"], "add_special": False, "parse_special": text["special"]}
    ids: list[int] = door.post("/tokenize", body)["tokens"]
    return ids


class LlamaServer:
    """llama.cpp's HTTP server for one GGUF file, at an address of its own on loopback.

    It answers only who has ``key``, and ends with this process, however that ends. Leaving the
    ``with`` block stops it.
    """

    def __init__(self, model: Path, *, context: int, slots: int, scratch: Path) -> None:
        """Start it and wait until the file is loaded.

        ``context`` is in tokens, for each of ``slots`` requests at a time; ``scratch`` is an
        existing folder for the log. Raises ExportError if llama.cpp does not load the file.
        """
        self.key = os.urandom(16).hex()
        request = {"model": str(model), "context": context, "slots": slots, "key": self.key}
        log = scratch / f"{model.stem}.log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from repotune.llama_cpp import listen; listen()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out,
            )  # fmt: skip
        try:
            self.address = self._told(request)
        except BaseException:
            self.close()
            raise
        if not self.address:
            self.close()
            tail = " ".join(log.read_text("utf-8", "replace")[-LOG_TAIL:].split())
            raise ExportError(
                f"llama.cpp does not serve {model.name} (exit code {self._process.returncode}; it "
                f"said: … {tail}): report it, with this message."
            )

    def _told(self, request: Mapping[str, Any]) -> str:
        """The address that the other process says, empty if it ended before. The request, with
        the key in it, goes through a pipe, since other users see a command line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return ""
        return self._process.stdout.readline().decode().strip()

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_ended(self) -> bool:
        """By itself, though nobody closed it."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def listen() -> None:
    """The other process of ``LlamaServer``: reads a request, says an address, ends at EOF."""
    import xllamacpp

    request = json.loads(sys.stdin.readline())
    say = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes into the log
    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_parallel, params.warmup, params.ui = request["slots"], False, False
    params.n_ctx = request["context"] * request["slots"]
    params.n_batch = params.n_ubatch = BATCH
    params.cache_ram_mib = 0  # prompts of others are kept nowhere
    params.verbosity = 2  # warnings
    # A thread that waits for its core holds up all others, so one core is left to the editor.
    params.cpuparams.poll = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(
        1, (os.cpu_count() or 2) - 1
    )
    params.hostnames, params.api_keys = ["127.0.0.1"], [request["key"]]
    server = xllamacpp.Server(params)
    os.write(say, server.listening_address.encode() + b"\n")
    os.close(say)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)  # at once; its own end waits for what is being written
