"""The door: an HTTP server on loopback that stands before llama.cpp's and lets in who may.

Each request has a thread of its own, and its connection is closed after the answer. A second
thread watches the client meanwhile: if it hangs up, llama.cpp is hung up on too. Nothing of a
request is logged.
"""

from __future__ import annotations

import hmac
import json
import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from repotune.errors import UsageError
from repotune.events import Emit, Notice
from repotune.serving.answers import gathered
from repotune.serving.refusal import Refusal
from repotune.serving.requests import Kind, Prepared, ServedModel, prepare
from repotune.serving.upstream import Asked

HOST: Final = "127.0.0.1"
OWN_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
BODY_BYTES: Final = 1_000_000
CONNECTIONS: Final = 64
CLIENT_SECONDS: Final = 30.0
"""A client that sends or takes nothing for so long is let go."""
WATCH_SECONDS: Final = 0.05
DRAIN_BYTES: Final = 4 * BODY_BYTES
GET: Final = ("/health", "/v1/models")
POST: Final[dict[str, Kind]] = {
    "/v1/completions": "completion",
    "/beta/completions": "completion",  # where Continue asks with a suffix
    "/infill": "infill",
    "/v1/chat/completions": "chat",
}
STATUS_OF: Final = {501: 405, 505: 400}
"""What the standard library would answer with, and what it is: the client's mistake."""


class Door:
    """Bound to its port from the start; answers from ``open`` until ``close``."""

    def __init__(self, port: int, token: str, emit: Emit) -> None:
        """``port`` 0 takes any that is free. Raises UsageError if it cannot be had."""
        try:
            self._server = _Server((HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"Port {port} cannot be had ({error.strerror or error}): stop what uses it, or "
                "take another with --port."
            ) from None
        self._server.token, self._server.emit = token, emit
        self._thread: threading.Thread | None = None
        self.address = f"http://{HOST}:{self._server.server_address[1]}"

    def open(self, models: Sequence[ServedModel]) -> None:
        """Answer requests to ``models``; the first one is asked where a request names none."""
        self._server.models = models
        # Ends within so many seconds of `close`.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more; once more is no mistake."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS
    models: Sequence[ServedModel] = ()
    token: str
    emit: Emit

    def __init__(self, *args: Any) -> None:
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*args)

    def server_bind(self) -> None:
        """As in HTTPServer, without asking the network for this machine's name."""
        if os.name == "nt":  # where SO_REUSEADDR would let another program take the port too
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # type: ignore[attr-defined,unused-ignore]
        else:  # at once after a stop, while the last connections still count as closing
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the request a thread, if one is free."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        refusal = Refusal(429, f"{CONNECTIONS} requests are being answered: ask again later.")
        with suppress(OSError):
            request.sendall(_head(429, "application/json", _json(refusal.body())))
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread: give its place back at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say where a bug of ours is, without the values, which may hold somebody's code."""
        kind, error, place = _current_error()
        if not isinstance(error, OSError):  # a client that went away is none
            self.emit(Notice(message=f"A request failed by {kind} at {place}: report it."))


def _current_error() -> tuple[str, BaseException | None, str]:
    error = sys.exc_info()[1]
    frames = traceback.extract_tb(error.__traceback__) if error else []
    last = frames[-1] if frames else None
    place = f"{Path(last.filename).name}:{last.lineno}" if last else "?"
    return type(error).__name__, error, place


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = CLIENT_SECONDS
    disable_nagle_algorithm = True  # a token goes out when it is there
    server: _Server

    def do_GET(self) -> None:
        """What needs no model."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """What a model is asked."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The standard library's refusals, in our form and never as a fault of the server."""
        status = STATUS_OF.get(code, code)
        self._refuse(Refusal(status, f"{HTTPStatus(status).phrase}."))

    def _answer(self, work: Any) -> None:
        self.close_connection = True
        try:
            if self.request_version == "HTTP/0.9":
                raise Refusal(400, "Speak HTTP/1.1.")
            self._refuse_strangers()
            work()
        except Refusal as refusal:
            self._refuse(refusal)

    def _refuse_strangers(self) -> None:
        """A web page must not get here, whatever name it gives this machine, nor anyone without
        the token. Whether the server lives is no secret."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or _without_port(hosts[0]) not in OWN_NAMES:
            raise Refusal(403, f"Only {HOST} and localhost are served here.")
        if self.headers.get("Origin") is not None:
            raise Refusal(403, "Web pages are not served here.")
        if self._path() == "/health":
            return
        given = self.headers.get("Authorization", "")
        wanted = f"Bearer {self.server.token}"
        if not hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode()):
            raise Refusal(
                401, "The token is missing or wrong: send `Authorization: Bearer TOKEN`.",
                "authentication_error",
            )  # fmt: skip

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _get(self) -> None:
        path = self._path()
        if path == "/health":
            self._send(200, {"status": "ok"})
        elif path == "/v1/models":
            data = [
                {"id": model.name, "object": "model", "created": 0, "owned_by": "repotune"}
                for model in self.server.models
            ]
            self._send(200, {"object": "list", "data": data})
        else:
            raise _no_such(path in POST)

    def _post(self) -> None:
        kind = POST.get(self._path())
        if kind is None:
            raise _no_such(self._path() in GET)
        prepared = prepare(kind, self._body(), self.server.models)
        asked = prepared.model.upstream.ask(prepared.path, prepared.body)
        with _hung_up_with(self.connection, asked):
            if prepared.stream:
                self._send_events(prepared, asked)
            else:
                answer = gathered(kind, _named(prepared, asked))
                if not asked.cancelled:
                    self._send(200, answer)

    def _body(self) -> dict[str, Any]:
        """The JSON object that was sent. Raises Refusal."""
        if self.headers.get("Transfer-Encoding") is not None:
            raise Refusal(411, "Send a Content-Length instead of chunks.")
        lengths = self.headers.get_all("Content-Length") or []
        if len(lengths) != 1:
            raise Refusal(411, "Send one Content-Length.")
        digits = lengths[0].strip()
        if not (digits.isascii() and digits.isdigit()):
            raise Refusal(400, "Content-Length must be a number.")
        if len(digits) > 12 or int(digits) > BODY_BYTES:
            raise Refusal(413, f"The body has more than {BODY_BYTES:,} bytes: send less code.")
        data = self.rfile.read(int(digits))
        if len(data) < int(digits):
            raise Refusal(400, "The body is shorter than its Content-Length.")
        try:
            body = json.loads(data.decode("utf-8"), parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise Refusal(400, "The body is not JSON in UTF-8.") from None
        if not isinstance(body, dict):
            raise Refusal(400, "The body must be a JSON object.")
        return body

    def _send_events(self, prepared: Prepared, asked: Asked) -> None:
        """Server-sent events; the head waits for the first, since the model may refuse."""
        begun = False
        try:
            for event in _named(prepared, asked):
                if event.get("choices") == [] and not prepared.with_usage:
                    continue
                if not begun:
                    self._write(_head(200, "text/event-stream", None))
                    begun = True
                self._write(b"data: " + _json(event) + b"\n\n")
        except Refusal as refusal:
            if not begun:
                raise
            self._write(b"data: " + _json(refusal.body()) + b"\n\n")
            return
        if asked.cancelled:
            return
        if not begun:
            self._write(_head(200, "text/event-stream", None))
        if prepared.kind != "infill":  # llama.cpp's own form has no end mark
            self._write(b"data: [DONE]\n\n")

    def _send(self, status: int, content: dict[str, Any]) -> None:
        self._write(_head(status, "application/json", _json(content)))

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, and take what the client still sends: who is cut off while it writes never
        reads the answer."""
        self.close_connection = True
        with suppress(OSError):
            self._send(refusal.status, refusal.body())
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            left = DRAIN_BYTES
            while left > 0 and (data := self.connection.recv(65536)):
                left -= len(data)


def _named(prepared: Prepared, asked: Asked) -> Iterator[dict[str, Any]]:
    """The events under the name that the client knows; llama.cpp calls a model by its path. A chat
    begins with who speaks, which llama.cpp leaves out where its first token is half a character."""
    begins = prepared.kind == "chat"
    for event in asked.events():
        if begins and event.get("choices"):
            event["choices"][0]["delta"].setdefault("role", "assistant")
            begins = False
        yield {**event, "model": prepared.model.name} if "model" in event else event


def _no_such(exists_otherwise: bool) -> Refusal:
    if exists_otherwise:
        return Refusal(405, "This path is asked by the other of GET and POST.")
    return Refusal(404, f"There is no such path: there are {', '.join((*GET, *POST))}.")


def _without_port(host: str) -> str:
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else host.strip().lower()


def _no_number(name: str) -> None:
    raise ValueError(name)


def _json(content: Any) -> bytes:
    """Without a space, as llama.cpp writes: llama.vim shows no answer but with ``"content":"``."""
    return json.dumps(content, separators=(",", ":")).encode()


def _head(status: int, kind: str, body: bytes | None) -> bytes:
    """Status, headers, and the body where there is one; a stream ends with its connection."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {kind}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if status == 401:
        lines.append("WWW-Authenticate: Bearer")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + (body or b"")


@contextmanager
def _hung_up_with(client: socket.socket, asked: Asked) -> Iterator[None]:
    """Cancel what is asked as soon as the client's end is closed. What it sends beyond its request
    is thrown away, since its connection ends with the answer."""
    answered = threading.Event()

    def watch() -> None:
        while not answered.is_set():
            try:
                ready = select.select([client], [], [], WATCH_SECONDS)[0]
                gone = bool(ready) and not client.recv(65536)
            except (OSError, ValueError):  # reset, or closed by us meanwhile
                gone = True
            if gone and not answered.is_set():
                asked.cancel()
            if gone:
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except OSError:  # the client does not take the answer
        asked.cancel()
    finally:
        answered.set()
