"""What is gathered agrees with what others say, and the parts can be shown other systems."""

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from repotune.machine import gather
from repotune.machine.disk import existing, free_bytes, linux_kind
from repotune.machine.gather import is_wsl, nvidia_on_bus


def test_the_facts_are_those_of_this_machine(tmp_path: Path) -> None:
    facts = gather({"models": tmp_path / "not" / "yet", "runs": tmp_path})
    assert facts.python == sys.version_info[:3]
    assert facts.torch is not None
    assert facts.torch.version == torch.__version__
    assert facts.torch.sees_gpu == torch.cuda.is_available()
    assert (facts.gpu is not None) >= facts.torch.sees_gpu
    assert facts.ram_bytes == psutil.virtual_memory().total
    assert platform.release() in facts.system_name or facts.system != "linux"
    assert [disk.purpose for disk in facts.disks] == ["models", "runs"]
    assert all(disk.free_bytes > 0 for disk in facts.disks)


def test_of_a_gpu_the_driver_is_asked_and_nothing_is_taken() -> None:
    # Elsewhere in the suite a context may have been made already; this one is not to make any.
    asked = (
        "import torch\nfrom repotune.machine import free_gpu_bytes\nfree = free_gpu_bytes()\n"
        "assert (free is not None) == torch.cuda.is_available()\n"
        "assert free is None or free > 0\nassert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", asked], check=True, timeout=120)


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ("5.15.167.4-microsoft-standard-WSL2", True),
        ("4.4.0-19041-Microsoft", True),
        ("6.8.0-45-generic", False),
    ],
)
def test_wsl_is_known_by_its_kernel(release: str, found: bool) -> None:
    assert is_wsl(release) == found


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030000", True),  # a GeForce
        ("0x10de", "0x030200", True),  # a card without outputs, such as a T4
        ("0x10de", "0x040300", False),  # its sound device alone
        ("0x1002", "0x030000", False),
    ],
)
def test_a_card_is_found_on_the_bus(vendor: str, kind: str, found: bool, tmp_path: Path) -> None:
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:02:00.0").mkdir()
    assert nvidia_on_bus(tmp_path) == found
    assert not nvidia_on_bus(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "flag", "kind"),
    [("sda", "1", "spinning"), ("sda", "0", "ssd"), ("vda", "1", "unknown"), ("vda", "0", "ssd")],
)
def test_the_kind_of_a_disk_is_that_of_the_whole_device(
    name: str, flag: str, kind: str, tmp_path: Path
) -> None:
    partition = tmp_path / "devices" / name / f"{name}1"
    (partition.parent / "queue").mkdir(parents=True)
    (partition.parent / "queue" / "rotational").write_text(f"{flag}\n")
    partition.mkdir()
    (tmp_path / "dev" / "block").mkdir(parents=True)
    (tmp_path / "dev" / "block" / "8:1").symlink_to(partition)
    (tmp_path / "dev" / "block" / "8:0").symlink_to(partition.parent)
    assert linux_kind(tmp_path, 8, 1) == kind
    assert linux_kind(tmp_path, 8, 0) == kind
    assert linux_kind(tmp_path, 0, 42) == "unknown"


def test_room_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    absent = tmp_path / "a" / "b"
    assert existing(absent) == tmp_path
    assert 0 < free_bytes(absent) <= psutil.disk_usage(str(tmp_path)).total
