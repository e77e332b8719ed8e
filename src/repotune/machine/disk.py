"""How much room there is at a path, and what kind of disk it lies on."""

from __future__ import annotations

import os
import plistlib
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from repotune.machine.facts import DiskKind

VIRTUAL_DISKS = ("vd", "xvd")
"""Disks of virtual machines call themselves spinning whatever is below them."""


def free_bytes(path: Path) -> int:
    """Room for this user at ``path``, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def drive(path: Path) -> int:
    """The system's number of the file system at ``path`` (of the volume, on Windows)."""
    return existing(path).stat().st_dev


def existing(path: Path) -> Path:
    """``path``, or its nearest parent that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def disk_kind(path: Path) -> DiskKind:
    """What ``path`` lies on; ``unknown`` where the system does not say (networks, containers)."""
    try:
        if sys.platform == "win32":
            return _windows_kind(existing(path))
        if sys.platform == "darwin":
            return _macos_kind(existing(path))
        device = existing(path).stat().st_dev
        return linux_kind(Path("/sys"), os.major(device), os.minor(device))
    except (OSError, ValueError, subprocess.SubprocessError):
        return "unknown"


def linux_kind(sys_folder: Path, major: int, minor: int) -> DiskKind:
    """By ``queue/rotational`` of the block device, which a partition has in its parent."""
    device = (sys_folder / "dev" / "block" / f"{major}:{minor}").resolve()
    for folder in (device, device.parent):
        flag = folder / "queue" / "rotational"
        if flag.is_file():
            if flag.read_text(encoding="ascii").strip() == "0":
                return "ssd"
            return "unknown" if folder.name.startswith(VIRTUAL_DISKS) else "spinning"
    return "unknown"


def _macos_kind(path: Path) -> DiskKind:
    told = subprocess.run(
        ["/usr/sbin/diskutil", "info", "-plist", str(path)],
        check=True,
        capture_output=True,
        timeout=10,
    )
    solid = plistlib.loads(told.stdout).get("SolidState")
    return "unknown" if solid is None else "ssd" if solid else "spinning"


def _windows_kind(path: Path) -> DiskKind:
    """By whether the drive has a seek penalty (IOCTL_STORAGE_QUERY_PROPERTY, winioctl.h)."""
    if sys.platform != "win32":
        return "unknown"
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.CreateFileW.restype = ctypes.c_void_p
    no_access, share_read_write, open_existing = 0, 3, 3
    handle = ctypes.c_void_p(
        kernel.CreateFileW(
            f"\\\\.\\{path.drive}", no_access, share_read_write, None, open_existing, 0, None
        )
    )
    if handle.value in (None, ctypes.c_void_p(-1).value):
        return "unknown"
    query_property, seek_penalty = 0x2D1400, 7
    query = struct.pack("<III", seek_penalty, 0, 0)
    answer = ctypes.create_string_buffer(12)  # version, size, whether there is a penalty
    length = ctypes.c_ulong()
    try:
        done = kernel.DeviceIoControl(
            handle, query_property, query, len(query), answer, len(answer),
            ctypes.byref(length), None,
        )  # fmt: skip
    finally:
        kernel.CloseHandle(handle)
    if not done:
        return "unknown"
    return "spinning" if answer.raw[8] else "ssd"
