"""HTTP to a server on this computer, by a port on loopback or by a socket in a folder.

A socket is a file: who may not enter its folder cannot reach the server, and no web page can.
"""

from __future__ import annotations

import http.client
import socket
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

UNIX: Final = "unix:"


def socket_address(path: Path) -> str:
    """How the socket at ``path`` is written where an address is asked for."""
    return f"{UNIX}{path}"


def connection_to(address: str, seconds: float | None = None) -> http.client.HTTPConnection:
    """Of ``http://HOST:PORT`` or ``unix:PATH``; nothing is sent before the first request.

    ``seconds`` is how long it waits for each piece, None: for ever.
    """
    if address.startswith(UNIX):
        return _SocketConnection(address.removeprefix(UNIX), seconds)
    place = urlsplit(address)
    return http.client.HTTPConnection(place.hostname or "", place.port, timeout=seconds)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float | None) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Raises OSError if nobody listens there."""
        if sys.platform == "win32":
            raise OSError("Windows' Python has no such sockets")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise
