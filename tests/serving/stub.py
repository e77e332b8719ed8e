"""A stand-in for llama.cpp's server, and a client that writes bytes by hand."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from repotune.serving import Door, ServedModel, Upstream

TOKEN = "a-token-of-the-tests"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


class Stub(ThreadingHTTPServer):
    """Keeps what it was asked, and answers ``pieces`` in llama.cpp's form of the path.

    ``last`` is its last event, if it is to be another than usual. With ``endless`` it goes on until
    the other side hangs up, which sets ``hung_up``.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = []
        self.pieces = ["one", " two"]
        self.last = None
        self.endless = False
        self.refusal = None
        self.started, self.hung_up = threading.Event(), threading.Event()

    def handle_error(self, request, client_address):
        self.hung_up.set()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.asked.append((self.path, body, dict(self.headers)))
        if server.refusal is not None:
            status, error = server.refusal
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"error": error}).encode())
            return
        self.send_response(200)
        self.end_headers()
        self._say({"prompt_progress": {"processed": 0}})
        server.started.set()
        while server.endless:
            # As llama.cpp does: it finds out when it has something to write.
            self._say({"prompt_progress": {"processed": 1}})
            server.hung_up.wait(0.02)
        for piece in server.pieces:
            self._say(_event(self.path, piece, None))
        last = server.last
        self._say(_event(self.path, "", "stop") if last is None else last)
        if self.path != "/completion":
            self.wfile.write(b"data: [DONE]\n\n")

    def _say(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()


def _event(path, piece, finish):
    if path == "/completion":
        return {"content": piece, "stop": finish is not None}
    said = {"delta": {"content": piece}} if "chat" in path else {"text": piece}
    usage = {"usage": {"completion_tokens": 2}} if finish else {}
    return {
        "id": "x", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, **said}], **usage,
    }  # fmt: skip


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def opened(models, emit=lambda event: None):
    door = Door(0, TOKEN, emit)
    door.open(models)
    try:
        yield door
    finally:
        door.close()


def served(stub, tokenizer, *, name="tuned", fim=True, has_chat=True, context=512):
    host, port = stub.server_address[:2]
    return ServedModel(
        name=name,
        upstream=Upstream(address=f"http://{host}:{port}", key="secret"),
        tokenizer=tokenizer,
        fim_names=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>") if fim else None,
        has_chat=has_chat,
        context=context,
    )


def exchange(door, data, *, timeout=10.0, end=False):
    """Send bytes, read until the other side closes: (status, head, body). Status 0: no answer.

    ``end`` says at once that no more will come, as a client does that gives up.
    """
    port = int(door.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused and closed before it was all written: there is an answer to read
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1]) if head else 0
    return status, head.decode("latin-1"), body


def post(door, path, body, **headers):
    """A well-formed request: (status, JSON)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Host": "127.0.0.1", **AUTH, "Content-Length": str(len(data)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    status, _, answer = exchange(door, "\r\n".join((*lines, "", "")).encode("latin-1") + data)
    return status, json.loads(answer)


def get(door, path, **headers):
    given = {"Host": "127.0.0.1", **AUTH, **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    status, _, answer = exchange(door, "\r\n".join((*lines, "", "")).encode("latin-1"))
    return status, json.loads(answer)
