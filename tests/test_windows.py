"""Every module can be imported where the POSIX-only modules do not exist, as on Windows."""

import subprocess
import sys

POSIX_ONLY = (
    "_posixshmem", "_posixsubprocess", "crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev",
    "posix", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios", "tty",
)  # fmt: skip

# Hidden from repotune only: on this platform the standard library and torch rightly use them.
IMPORT_ALL = """
import builtins, importlib, pkgutil, sys

hidden = set(sys.argv[1].split())
original = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.split(".")[0] == "repotune" and name.split(".")[0] in hidden:
        raise ImportError(f"{importer} imports {name}, which Windows does not have")
    return original(name, globals, locals, fromlist, level)

builtins.__import__ = guarded

import repotune
for module in pkgutil.walk_packages(repotune.__path__, "repotune."):
    if module.name.startswith("repotune.kernels.triton."):
        continue  # needs Triton, which is where a CUDA build of PyTorch is, and nowhere else
    importlib.import_module(module.name)
    print(module.name)
"""


def import_all(hidden: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, hidden],
        check=False,
        capture_output=True,
        text=True,
    )


def test_every_module_imports_without_the_posix_modules() -> None:
    done = import_all(" ".join(POSIX_ONLY))
    assert done.returncode == 0, done.stderr
    assert {"repotune.cli.app", "repotune.runs"} <= set(done.stdout.split())


def test_the_guard_does_hide_a_module() -> None:
    done = import_all("filelock")
    assert "repotune.runs.lock imports filelock, which Windows does not have" in done.stderr
