"""One kind of address for a port and for a socket."""

import json
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from repotune.local_http import connection_to, socket_address


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass

    def address_string(self):
        return "here"


@pytest.mark.parametrize(
    "kind",
    [
        "port",
        pytest.param(
            "socket",
            marks=pytest.mark.skipif(
                sys.platform == "win32", reason="Windows' Python has no such sockets"
            ),
        ),
    ],
)
def test_a_server_is_asked_by_its_address(kind, tmp_path):
    if kind == "port":
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        address = f"http://127.0.0.1:{server.server_address[1]}"
    else:
        server = socketserver.UnixStreamServer(str(tmp_path / "s"), Handler)
        address = socket_address(tmp_path / "s")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        connection = connection_to(address, seconds=10)
        connection.request("GET", "/version")
        assert json.loads(connection.getresponse().read()) == {"path": "/version"}
        connection.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_nobody_listening_is_an_oserror(tmp_path):
    with pytest.raises(OSError):
        connection_to(socket_address(tmp_path / "none")).request("GET", "/")
