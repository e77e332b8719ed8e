"""Builds, drivers and cards: what each lacks, and the one command that mends it."""

from dataclasses import replace

import pytest

from repotune.machine import expects_gpu
from repotune.machine.facts import GpuProcess
from repotune.machine.graphics import has_kernels, held_by_others, no_kernels, no_room

from .machines import (
    CODE_LLAMA,
    CPU_ONLY,
    CUDA_12,
    CUDA_13,
    GIB,
    HEALTHY,
    K80,
    P100,
    RTX_3060,
    RTX_5090,
    V100,
    WINDOWS,
    WITHOUT_GPU,
    gpu,
    line,
    missing,
)

INDEX = "https://download.pytorch.org/whl"


def test_a_windows_machine_whose_torch_is_for_the_cpu() -> None:
    facts = replace(WINDOWS, torch=CPU_ONLY)
    found = missing(facts)
    assert list(found) == ["cuda"]
    assert "NVIDIA GeForce RTX 3060" in found["cuda"].reason
    assert found["cuda"].fix == (
        r'& "C:\code\.venv\Scripts\python.exe" -m pip install --force-reinstall '
        f'"torch>=2.11,<2.15" --index-url {INDEX}/cu130'
    )


def test_the_build_is_one_that_the_driver_runs() -> None:
    found = missing(replace(HEALTHY, torch=CPU_ONLY, driver="550.54.14"))
    assert list(found) == ["cuda"]
    assert str(found["cuda"].fix).endswith(f"'torch>=2.11,<2.15' --index-url {INDEX}/cu126")


def test_a_driver_older_than_the_build_asks_for_the_build_that_it_runs() -> None:
    found = missing(replace(HEALTHY, driver="535.183.01", torch=replace(CUDA_13, sees_gpu=False)))
    assert list(found) == ["driver"]
    assert "535.183.01 is older than the 580 that a PyTorch for CUDA 13.0" in found["driver"].reason
    assert str(found["driver"].fix).endswith("/cu126")


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({}, "sudo ubuntu-drivers install && sudo reboot"),
        ({"distribution": ("fedora",)}, "sudo dnf install akmod-nvidia && sudo reboot"),
        ({"distribution": ("nixos",)}, "xdg-open https://www.nvidia.com/drivers"),
        ({"system": "windows"}, "Start-Process https://www.nvidia.com/drivers"),
        (
            {"system": "wsl"},
            "Start-Process https://www.nvidia.com/drivers; wsl --update; wsl --shutdown",
        ),
    ],
)
def test_a_driver_that_runs_no_build_is_replaced(changes, fix) -> None:
    facts = replace(HEALTHY, driver="470.199.02", torch=replace(CUDA_12, sees_gpu=False), **changes)
    assert missing(facts)["driver"].fix == fix


def test_blackwell_needs_the_newer_build_and_with_it_a_newer_driver() -> None:
    facts = replace(HEALTHY, gpu=RTX_5090, torch=CUDA_12, driver="575.64.03")
    found = missing(facts)
    assert str(found["gpu"].fix).endswith("/cu130")
    assert not has_kernels(CUDA_12, RTX_5090.compute_capability)
    assert missing(replace(HEALTHY, gpu=RTX_5090)) == {}


@pytest.mark.parametrize("card", [V100, P100])
def test_volta_and_pascal_are_told_their_last_build(card) -> None:
    found = missing(replace(HEALTHY, gpu=card))
    assert list(found) == ["gpu"]
    assert "cu126; PyTorch 2.14 is the last" in found["gpu"].reason
    assert str(found["gpu"].fix).endswith("/cu126")
    with_build = replace(HEALTHY, gpu=card, torch=CUDA_12)
    assert missing(with_build) == {}
    assert "cu126 build only, up to PyTorch 2.14" in line(with_build, "gpu").reason
    assert line(with_build, "bf16").finding == "note"


def test_a_torch_that_sees_no_gpu_is_judged_by_its_cuda() -> None:
    blind = replace(CUDA_13, sees_gpu=False, architectures=())
    assert not has_kernels(blind, V100.compute_capability)
    assert has_kernels(blind, RTX_3060.compute_capability)
    assert has_kernels(replace(blind, cuda_build=(12, 6)), V100.compute_capability)
    assert not has_kernels(replace(blind, cuda_build=(12, 8)), V100.compute_capability)


def test_a_run_on_a_gpu_without_kernels_is_refused_in_one_sentence() -> None:
    assert no_kernels(CUDA_13, RTX_3060.name, RTX_3060.compute_capability) is None
    assert no_kernels(CUDA_13, V100.name, V100.compute_capability) == (
        "PyTorch 2.13.0+cu130 has no kernels for the Tesla V100-SXM2-16GB (compute capability "
        "7.0): `repotune doctor` prints the command that installs a build which has them, if there "
        "is one."
    )


def test_a_gpu_that_others_have_filled_is_refused_with_who_holds_it() -> None:
    assert no_room(RTX_3060) is None
    hogs = (GpuProcess(pid=4242, name="game", used_bytes=9 * GIB),)
    assert no_room(replace(RTX_3060, free_bytes=50 * 2**20, processes=hogs)) == (
        "50 MiB of the NVIDIA GeForce RTX 3060 are free, too little to begin with. 12.0 of the "
        "GPU's 12.0 GiB are held by game (process 4242): end them to have it all."
    )


def test_a_desktop_on_the_gpu_is_no_news() -> None:
    assert held_by_others(RTX_3060) == ""
    unseen = replace(RTX_3060, free_bytes=4 * GIB)
    assert "8.0 of the GPU's 12.0 GiB are held by other processes" in held_by_others(unseen)


def test_intermediate_code_serves_later_gpus_only() -> None:
    assert has_kernels(CUDA_13, (12, 1))
    assert not has_kernels(replace(CUDA_13, architectures=("compute_90",)), (8, 6))
    assert has_kernels(replace(CUDA_13, architectures=("sm_80",)), (8, 9))
    assert not has_kernels(replace(CUDA_13, architectures=("sm_89",)), (8, 6))


def test_a_card_that_no_build_serves_is_said_to_have_none() -> None:
    found = missing(replace(HEALTHY, gpu=K80))
    assert "No PyTorch from 2.11 on has kernels for compute capability 3.7" in found["gpu"].reason
    assert found["gpu"].fix is None


@pytest.mark.parametrize(
    ("system", "fix"), [("linux", "kill 4242"), ("windows", "Stop-Process -Id 4242")]
)
def test_a_gpu_that_another_process_fills_names_that_process(system, fix) -> None:
    hog = GpuProcess(pid=4242, name="game", used_bytes=9 * GIB)
    other = GpuProcess(pid=7, name="desktop", used_bytes=GIB // 2)
    card = replace(RTX_3060, free_bytes=2 * GIB, processes=(hog, other))
    found = missing(replace(HEALTHY, system=system, gpu=card))
    assert list(found) == ["vram"]
    assert found["vram"].fix == fix
    assert found["vram"].reason == (
        "10.0 GiB are in use by other programs, 4.9 GiB are needed: end game (process 4242, "
        "9.0 GiB)."
    )
    assert "game 4242: 9.0 GiB; desktop 7: 0.5 GiB" in found["vram"].value


def test_a_filled_gpu_whose_users_are_hidden_is_still_told() -> None:
    card = replace(RTX_3060, free_bytes=2 * GIB)
    assert missing(replace(HEALTHY, system="wsl", gpu=card))["vram"].fix == "nvidia-smi.exe"
    # Windows names them without figures: the first may be the desktop, and is not to be ended.
    desktop = GpuProcess(pid=7, name="dwm.exe", used_bytes=None)
    check = missing(replace(WINDOWS, gpu=replace(card, processes=(desktop,))))["vram"]
    assert check.fix == "nvidia-smi"
    assert "dwm.exe 7" in check.value


@pytest.mark.parametrize(
    ("gib", "finding"), [(8.0, "ok"), (6.0, "tight"), (4.0, "missing")]
)  # fmt: skip
def test_small_cards_are_judged_by_what_the_job_needs(gib, finding) -> None:
    card = gpu("NVIDIA GeForce RTX 3050", (8, 6), gib)
    check = line(replace(HEALTHY, gpu=card), "vram")
    assert check.finding == finding
    assert check.needed == "4.9 GiB"
    if finding == "missing":
        assert check.fix == f"repotune tune PATH --model {CODE_LLAMA.smaller_model}"
    streamed = replace(CODE_LLAMA, vram_bytes=2 * GIB)
    assert missing(replace(HEALTHY, gpu=card), streamed) == {}


def test_a_gpu_that_is_hidden_from_torch() -> None:
    found = missing(replace(HEALTHY, torch=replace(CUDA_13, sees_gpu=False, architectures=())))
    assert list(found) == ["gpu"]
    assert found["gpu"].fix == "unset CUDA_VISIBLE_DEVICES"


def test_a_card_without_a_driver() -> None:
    facts = replace(HEALTHY, gpu=None, driver=None, torch=replace(CUDA_13, sees_gpu=False))
    assert expects_gpu(facts)
    found = missing(facts)
    assert list(found) == ["driver"]
    assert found["driver"].fix == "sudo ubuntu-drivers install && sudo reboot"


def test_wsl_that_gets_no_gpu_from_windows() -> None:
    facts = replace(
        WITHOUT_GPU,
        system="wsl",
        torch=replace(CUDA_13, sees_gpu=False, architectures=()),
    )
    assert expects_gpu(facts)
    found = missing(facts)
    assert list(found) == ["driver"]
    assert "in PowerShell" in found["driver"].reason
    assert "wsl --update" in str(found["driver"].fix)
    assert not expects_gpu(replace(facts, torch=CPU_ONLY))
