"""One request to llama.cpp's server, as a stream of events that can be cancelled.

It is always asked for a stream, with a word on how far it has read the prompt: only where it has
something to write does llama.cpp notice that nobody listens any more, and free the slot.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from repotune.serving.refusal import Refusal

DATA: Final = b"data: "
END: Final = b"[DONE]"
PROGRESS: Final = "prompt_progress"
TOO_LONG: Final = "exceed_context_size_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where llama.cpp's server listens, and the key that it wants."""

    address: str
    """``http://127.0.0.1:PORT``."""
    key: str

    def ask(self, path: str, body: Mapping[str, Any]) -> Asked:
        """Begin a request; nothing is sent before its events are read."""
        return Asked(self, path, body)


class Asked:
    """A request to llama.cpp; its events are read by one thread, and cancelled by any."""

    def __init__(self, upstream: Upstream, path: str, body: Mapping[str, Any]) -> None:
        place = urlsplit(upstream.address)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port)
        self._headers = {
            "Authorization": f"Bearer {upstream.key}",
            "Content-Type": "application/json",
        }
        self._path = path
        self._body = json.dumps({**body, "stream": True, "return_progress": True}).encode()
        self._socket: socket.socket | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Hang up: whoever reads the events finds that they have ended."""
        self.cancelled = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def events(self) -> Iterator[dict[str, Any]]:
        """What llama.cpp writes, piece by piece, without its progress and its end mark.

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
                raise Refusal(
                    503, "The model's process does not answer: stop `repotune serve` and start it."
                ) from None
        finally:
            self._connection.close()

    def _read(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        if response.status != 200:
            raise _refusal(json.loads(response.read()))
        for line in response:
            if not line.startswith(DATA):
                continue
            data = line[len(DATA) :].strip()
            if data == END:
                return
            event = json.loads(data)
            if "error" in event:
                raise _refusal(event)
            if PROGRESS not in event:
                yield event


def _refusal(content: Mapping[str, Any]) -> Refusal:
    """llama.cpp's error in our form. Its status is not taken over: it answers 500 and 501 to
    requests whose values it cannot use, which are the client's to mend."""
    error = content["error"]
    kind = TOO_LONG if error.get("type") == TOO_LONG else "invalid_request_error"
    return Refusal(400, f"llama.cpp does not take the request: {error.get('message')}", kind)
