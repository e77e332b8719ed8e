"""One request to a model's server, as a stream of events that can be cancelled.

Requests are in llama.cpp's form; ``VllmUpstream`` writes them in vLLM's.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from repotune.local_http import connection_to
from repotune.serving.refusal import Refusal

DATA: Final = b"data: "
END: Final = b"[DONE]"
PROGRESS: Final = "prompt_progress"
TOO_LONG: Final = "exceed_context_size_error"
NO_ANSWER: Final = "The model's process does not answer: stop `repotune serve` and start it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where llama.cpp's server listens, and the key that it wants.

    It is always asked for a stream, with a word on how far it has read the prompt: only where it
    has something to write does it notice that nobody listens any more, and free the slot.
    """

    address: str
    """As ``local_http`` takes it."""
    key: str

    def ask(self, path: str, body: Mapping[str, Any]) -> Asked:
        """Begin a request; nothing is sent before its events are read."""
        asked = {**body, "stream": True, "return_progress": True}
        return Asked("llama.cpp", self.address, path, asked, self.key)


class Asked:
    """A request; its events are read by one thread, and cancelled by any."""

    def __init__(
        self, program: str, address: str, path: str, body: Mapping[str, Any], key: str
    ) -> None:
        self._program = program
        self._connection = connection_to(address)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._path, self._body = path, json.dumps(body).encode()
        self._socket: socket.socket | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Hang up: whoever reads the events finds that they have ended."""
        self.cancelled = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def events(self) -> Iterator[dict[str, Any]]:
        """What the server writes, piece by piece, without its progress and its end mark.

        Raises Refusal for a request that it does not take, or if it cannot be reached. Ends early
        if it is cancelled.
        """
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            if not self.cancelled:
                self._connection.request("POST", self._path, self._body, self._headers)
                with self._connection.getresponse() as response:
                    yield from self._read(response)
        except (OSError, http.client.HTTPException, ValueError):
            if not self.cancelled:
                raise Refusal(503, NO_ANSWER) from None
        finally:
            self._connection.close()

    def _read(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        if response.status != 200:
            raise self._refusal(json.loads(response.read()))
        for line in response:
            if not line.startswith(DATA):
                continue
            data = line[len(DATA) :].strip()
            if data == END:
                return
            event = json.loads(data)
            if "error" in event:
                raise self._refusal(event)
            if PROGRESS not in event:
                yield event

    def _refusal(self, content: Mapping[str, Any]) -> Refusal:
        """The server's error in our form. Its status is not taken over: llama.cpp answers 500 and
        501 to requests whose values it cannot use, which are the client's to mend."""
        error = content.get("error", content)
        if not isinstance(error, Mapping):  # vLLM's, where it is no request's fault
            error = {"message": error}
        kind = TOO_LONG if error.get("type") == TOO_LONG else "invalid_request_error"
        message = f"{self._program} does not take the request: {error.get('message', error)}"
        return Refusal(400, message, kind)
