"""The machine of a plan, asked without torch, and what stands between a run and its GPU."""

from dataclasses import replace

import pytest
import torch

from repotune import survey
from repotune.machine.driver import DriverFacts
from repotune.machine.facts import GpuFacts, GpuProcess
from repotune.machine.triton import TritonFault

GIB = 2**30
RTX_3060 = GpuFacts(
    name="NVIDIA GeForce RTX 3060", uuid="GPU-1", compute_capability=(8, 6),
    memory_bytes=12 * GIB, free_bytes=11 * GIB, processes=(),
)  # fmt: skip
DRIVER = DriverFacts(version="580.65.06", gpus=(RTX_3060,))


def test_pytorch_is_known_without_importing_it():
    assert survey.torch_build() == (torch.__version__, torch.version.cuda or "")


def test_this_machine_can_be_planned_for():
    target, _ = survey.this_target()
    assert target.here
    assert target.free_bytes > 0
    assert target.device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_healthy_gpu_is_the_one_that_is_planned_for():
    assert survey.usable_gpu(DRIVER, "2.13.0+cu130", "13.0") == (RTX_3060, [])


@pytest.mark.parametrize(
    ("driver", "torch_version", "cuda", "words"),
    [
        (None, "2.13.0+cu130", "13.0", "No NVIDIA driver answers here"),
        (replace(DRIVER, gpus=()), "2.13.0+cu130", "13.0", "No NVIDIA driver answers here"),
        (DRIVER, "2.13.0+cpu", "", "PyTorch 2.13.0+cpu cannot use the NVIDIA GeForce RTX 3060"),
        (DRIVER, "", "", "PyTorch is not installed or cannot use"),
        (
            replace(DRIVER, gpus=(replace(RTX_3060, name="V100", compute_capability=(7, 0)),)),
            "2.13.0+cu130", "13.0", "PyTorch for CUDA 13.0 has no kernels for the V100",
        ),
        (
            replace(DRIVER, version="535.183.01"), "2.13.0+cu130", "13.0",
            "Driver 535.183.01 is older than the 580 that PyTorch for CUDA 13.0 needs",
        ),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_one_sentence_with_a_way_out(driver, torch_version, cuda, words):
    gpu, notes = survey.usable_gpu(driver, torch_version, cuda)
    assert gpu is None
    (note,) = notes
    assert words in note
    assert "`repotune doctor`" in note
    assert "the plan is for the processor" in note


def test_a_triton_that_cannot_work_makes_a_plan_of_plain_operations(monkeypatch):
    monkeypatch.setattr("repotune.machine.driver.ask_driver", lambda: DRIVER)
    monkeypatch.setattr("repotune.survey.here.torch_build", lambda: ("2.13.0+cu130", "13.0"))
    for fault in (None, TritonFault(key="triton_no_compiler", detail="CC=icx")):
        monkeypatch.setattr(
            "repotune.machine.triton.what_is_missing",
            lambda compiler, fault=fault: fault if compiler == "icx" else None,
        )
        target, notes = survey.this_target(compiler="icx")
        assert target.fused == (fault is None)
        assert notes == [
            "Triton does not find a C compiler (CC=icx), so the plan is for plain PyTorch, which "
            "is slower: `repotune doctor` says how to mend it."
        ] * (fault is not None)


def test_an_old_driver_serves_the_build_that_it_can_run():
    old = replace(DRIVER, version="535.183.01")
    assert survey.usable_gpu(old, "2.13.0+cu126", "12.6") == (RTX_3060, [])


def test_a_gpu_that_another_process_fills_names_it():
    hog = GpuProcess(pid=4242, name="game", used_bytes=9 * GIB)
    full = replace(RTX_3060, free_bytes=2 * GIB, processes=(hog,))
    gpu, (note,) = survey.usable_gpu(replace(DRIVER, gpus=(full,)), "2.13.0+cu130", "13.0")
    assert gpu == full
    assert note == (
        "10.0 of the GPU's 12.0 GiB are held by game (process 4242): end them to have it all."
    )
