"""What holds for every test: no network but loopback, and nothing of the user's is touched."""

import sys
from pathlib import Path

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _refuse_network(event: str, args: tuple[object, ...]) -> None:
    # args of socket.connect: the socket and its address, (host, port, ...) or a Unix path.
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
        assert host in LOOPBACK, f"a test wanted to reach {host}"


sys.addaudithook(_refuse_network)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches lie in the test session's folder, not in the user's home."""
    cache: Path = tmp_path_factory.getbasetemp() / "user-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("LOCALAPPDATA", str(cache))
