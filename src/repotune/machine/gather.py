"""Looking at this computer: everything that ``judge`` needs, each fact from whoever knows it."""

from __future__ import annotations

import platform
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from repotune.errors import DoesNotFit, TrainingError
from repotune.machine import triton
from repotune.machine.disk import disk_kind, drive, free_bytes
from repotune.machine.driver import DriverFacts, ask_driver
from repotune.machine.facts import (
    DiskFacts,
    GpuFacts,
    MachineFacts,
    Purpose,
    System,
    TorchFacts,
)
from repotune.machine.graphics import held_by_others, no_kernels, no_room
from repotune.machine.probe import bf16_pays_off, cpu_name, ram, usable_cores

PCI = Path("/sys/bus/pci/devices")
WSL_LIBRARY = Path("/usr/lib/wsl/lib/libnvidia-ml.so.1")
"""Windows lends its driver's library to WSL, if it has one."""
NVIDIA, DISPLAY = "0x10de", "0x03"
"""PCI's number of the vendor, and the beginning of its class of display controllers."""


def gather(places: Mapping[Purpose, Path], *, compiler: str | None = None) -> MachineFacts:
    """This computer, now. Imports torch, if it can be imported; ``places`` need not exist yet.

    ``compiler``: see ``triton.what_is_missing``.
    """
    driver = ask_driver()  # before torch, which takes GPU memory for itself
    torch, torch_error = _torch()
    ram_bytes, ram_free_bytes = ram()
    system = this_system()
    return MachineFacts(
        system=system,
        system_name=_system_name(),
        distribution=_distribution(),
        executable=sys.executable,
        python=sys.version_info[:3],
        cpu=cpu_name(),
        cores=usable_cores(),
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        torch=torch,
        torch_error=torch_error,
        cpu_bf16=torch is not None and bf16_pays_off(),
        nvidia_hardware=_nvidia_hardware(system),
        driver=driver.version if driver else None,
        gpu=_gpu(driver, torch),
        disks=tuple(
            DiskFacts(
                purpose=purpose,
                path=str(path),
                drive=drive(path),
                free_bytes=free_bytes(path),
                kind=_kind(path),
            )
            for purpose, path in places.items()
        ),
        bitsandbytes=_version("bitsandbytes"),
        triton=_version("triton", "triton-windows", "pytorch-triton"),
        triton_fault=triton.what_is_missing(compiler),
    )


def check_gpu() -> None:
    """Refuse a GPU that PyTorch sees and cannot compute on; makes no CUDA context.

    Raises TrainingError where it has no kernels for it, DoesNotFit where others have filled it.
    """
    facts, _ = _torch()
    if facts is None or not facts.sees_gpu:
        return
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own words about kernels that it lacks
        properties = torch.cuda.get_device_properties(0)
    if words := no_kernels(facts, properties.name, (properties.major, properties.minor)):
        raise TrainingError(words)
    driver = ask_driver()
    for gpu in driver.gpus if driver else ():
        if gpu.uuid == f"GPU-{properties.uuid}" and (words := no_room(gpu)):
            raise DoesNotFit(words)


def who_holds_the_gpu() -> str:
    """A sentence about other programs on the GPU that PyTorch takes; empty if there is none."""
    gpu = _gpu(ask_driver(), _torch()[0])
    return held_by_others(gpu) if gpu else ""


def free_gpu_bytes() -> int | None:
    """Free memory of the GPU that PyTorch takes, by the driver's account, so that this process
    takes nothing of it; None where PyTorch sees none."""
    facts, _ = _torch()
    gpu = _gpu(ask_driver(), facts) if facts and facts.sees_gpu else None
    return gpu.free_bytes if gpu else None


def this_system() -> System:
    """Which of the systems this is, by what tells their commands apart."""
    if sys.platform == "win32":
        return "windows"
    if sys.platform == "darwin":
        return "macos"
    return "wsl" if is_wsl(platform.release()) else "linux"


def is_wsl(release: str) -> bool:
    """Whether a kernel is that of the Windows Subsystem for Linux."""
    return "microsoft" in release.lower()


def nvidia_on_bus(pci: Path) -> bool:
    """Whether Linux lists a display controller of NVIDIA's (``/sys/bus/pci/devices``)."""
    if not pci.is_dir():
        return False
    for device in pci.iterdir():
        try:
            vendor, kind = ((device / name).read_text("ascii") for name in ("vendor", "class"))
        except OSError:  # taken out meanwhile
            continue
        if vendor.startswith(NVIDIA) and kind.startswith(DISPLAY):
            return True
    return False


def _nvidia_hardware(system: System) -> bool:
    if sys.platform == "win32":
        import winreg

        path = r"SYSTEM\CurrentControlSet\Enum\PCI"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            names = [winreg.EnumKey(key, i) for i in range(winreg.QueryInfoKey(key)[0])]
        return any(name.upper().startswith("VEN_10DE") for name in names)
    return WSL_LIBRARY.exists() if system == "wsl" else nvidia_on_bus(PCI)


def _gpu(driver: DriverFacts | None, torch_facts: TorchFacts | None) -> GpuFacts | None:
    """The GPU that PyTorch would take, by the driver's account where there is one."""
    gpus = driver.gpus if driver else ()
    if torch_facts is None or not torch_facts.sees_gpu:
        return gpus[0] if gpus else None
    import torch

    # CUDA_VISIBLE_DEVICES and CUDA's own order may make it another than the first on the bus.
    properties = torch.cuda.get_device_properties(0)
    uuid = f"GPU-{properties.uuid}"
    for gpu in gpus:
        if gpu.uuid == uuid:
            return gpu
    free, total = torch.cuda.mem_get_info(0)
    found = GpuFacts(
        name=properties.name,
        uuid=uuid,
        compute_capability=(properties.major, properties.minor),
        memory_bytes=total,
        free_bytes=free,
        processes=(),
    )
    return replace(found, processes=gpus[0].processes) if len(gpus) == 1 else found


def _torch() -> tuple[TorchFacts | None, str]:
    """The installed PyTorch, or why it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that it needs is missing
        return None, " ".join(str(error).split())
    with warnings.catch_warnings():
        # A driver that is too old is a warning of PyTorch's, and a finding of ours.
        warnings.simplefilter("ignore")
        sees_gpu = torch.cuda.is_available()
        architectures = tuple(torch.cuda.get_arch_list())
    build = torch.version.cuda
    major, minor = (int(part) for part in build.split(".")[:2]) if build else (0, 0)
    return TorchFacts(
        version=torch.__version__,
        cuda_build=(major, minor) if build else None,
        cudnn=_cudnn() if build else None,
        architectures=architectures,
        sees_gpu=sees_gpu,
    ), ""


def _cudnn() -> str | None:
    import torch

    try:
        number = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    except RuntimeError:  # another cuDNN lies in the way of PyTorch's own
        return None
    # cuDNN 9 counts 9.10.2 as 91002.
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number else None


def _kind(path: Path) -> Literal["ssd", "spinning", "unknown"]:
    return "unknown" if is_wsl(platform.release()) else disk_kind(path)


def _system_name() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    if sys.platform == "win32":
        return f"Windows {platform.win32_ver()[0]} {platform.version()}"
    return f"{_release().get('PRETTY_NAME', 'Linux')}, Linux {platform.release()}"


def _distribution() -> tuple[str, ...]:
    release = _release()
    return (release.get("ID", ""), *release.get("ID_LIKE", "").split())


def _release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:  # not Linux, or one without the file
        return {}


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
