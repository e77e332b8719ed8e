"""The lines of ``doctor`` about the GPU: build, driver, card, memory, precision."""

from __future__ import annotations

import re
from typing import Final

from repotune.machine import fixes
from repotune.machine.facts import GpuFacts, JobNeeds, MachineFacts, TorchFacts
from repotune.machine.texts import Lang, say
from repotune.records import Check, Finding

GIB: Final = 2**30
CUDA: Final = (12, 6)
"""The oldest CUDA that PyTorch 2.11 is built for."""
BF16: Final = (8, 0)
"""Tensor cores for bf16 came with Ampere."""
LEAST_CONTEXT: Final = 256 * 2**20
"""No GPU's CUDA context is smaller."""
DESKTOP_LEAVES: Final = 0.8
"""Of the GPU's memory, at the least."""
ROOM: Final = 1.25
"""Less than this many times the least memory is tight."""
NO_PAGE: Final = ("", "", "")
PAGE_VRAM: Final = ("12 GB", "16 GB", "24 GB")
PAGE_GPU: Final = ("RTX 3060", "RTX 4060 Ti", "RTX 3090")
PAGE_CUDA: Final = ("11.8", "12.1", "")


def judge_graphics(facts: MachineFacts, needs: JobNeeds, lang: Lang) -> tuple[Check, ...]:
    """The lines from CUDA to bf16; all notes where the job does without a GPU."""
    if not needs.on_gpu:
        return _without_gpu(facts, lang)
    checks = [_cuda(facts, lang), _driver(facts, lang)]
    if facts.torch and facts.torch.cuda_build:
        checks.append(_cudnn(facts, facts.torch, lang))
    if facts.gpu:
        checks += [_gpu(facts, facts.gpu, lang), _vram(facts, facts.gpu, needs, lang)]
        checks.append(_bf16(facts.gpu, lang))
    return tuple(checks)


def has_kernels(torch: TorchFacts, capability: tuple[int, int]) -> bool:
    """Whether this PyTorch was built for a GPU of ``capability``.

    Machine code (``sm_86``) runs on GPUs of the same major number and no smaller minor one;
    intermediate code (``compute_90``) is translated for every later GPU. A PyTorch that sees no
    GPU does not list what it holds; then it is what its CUDA was published with.
    """
    if not torch.architectures:
        cuda = torch.cuda_build or (0, 0)
        return any(
            build.lowest <= capability <= build.highest
            for build in fixes.BUILDS
            # CUDA 12.8 builds of 2.11 have the kernels of those for CUDA 13.
            if (build.cuda > CUDA) == (cuda > CUDA)
        )
    for name in torch.architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name)
        if match is None:
            continue
        major, minor = int(match[2]), int(match[3])
        if match[1] == "compute" and (major, minor) <= capability:
            return True
        if match[1] == "sm" and major == capability[0] and minor <= capability[1]:
            return True
    return False


def no_kernels(torch: TorchFacts, gpu: str, capability: tuple[int, int]) -> str | None:
    """Why a run cannot compute on ``gpu`` with this PyTorch, None if it can."""
    if has_kernels(torch, capability):
        return None
    return (
        f"PyTorch {torch.version} has no kernels for the {gpu} (compute capability "
        f"{_dotted(capability)}): `repotune doctor` prints the command that installs a build which "
        "has them, if there is one."
    )


def no_room(gpu: GpuFacts) -> str | None:
    """Why nothing can be begun on the GPU, None if something can."""
    if gpu.free_bytes >= LEAST_CONTEXT:
        return None
    return (
        f"{gpu.free_bytes / 2**20:.0f} MiB of the {gpu.name} are free, too little to begin with. "
        f"{held_by_others(gpu)}"
    )


def held_by_others(gpu: GpuFacts) -> str:
    """A sentence where other programs hold more of the GPU than a desktop does, else nothing."""
    if gpu.free_bytes > DESKTOP_LEAVES * gpu.memory_bytes:
        return ""
    held = f"{(gpu.memory_bytes - gpu.free_bytes) / GIB:.1f}"
    names = ", ".join(f"{one.name} (process {one.pid})" for one in gpu.processes[:3])
    return (
        f"{held} of the GPU's {gpu.memory_bytes / GIB:.1f} GiB are held by "
        f"{names or 'other processes'}: end them to have it all."
    )


def _without_gpu(facts: MachineFacts, lang: Lang) -> tuple[Check, ...]:
    cuda = facts.torch.cuda_build if facts.torch else None
    values = {
        "cuda": _dotted(cuda) if cuda else say(lang, "none"),
        "driver": facts.driver or say(lang, "none"),
        "cudnn": (facts.torch.cudnn if facts.torch else None) or say(lang, "none"),
        "gpu": say(lang, "none"),
        "vram": say(lang, "none"),
        "bf16": say(lang, "yes_cpu" if facts.cpu_bf16 else "no_cpu"),
    }
    pages = {"cuda": PAGE_CUDA, "gpu": PAGE_GPU, "vram": PAGE_VRAM}
    return tuple(
        Check(
            key=key, label=say(lang, key), value=value,
            needed=say(lang, "not_needed"), page=pages.get(key, NO_PAGE), finding="note",
            reason=say(lang, "no_gpu") if key == "gpu" else "", fix=None,
        )
        for key, value in values.items()
    )  # fmt: skip


def _cuda(facts: MachineFacts, lang: Lang) -> Check:
    torch, gpu = facts.torch, facts.gpu
    build = torch.cuda_build if torch else None
    reason = ""
    if torch and build is None:
        reason = say(lang, "torch_cpu_only", gpu=gpu.name if gpu else "GPU")
    elif build and build < CUDA:
        reason = say(lang, "cuda_old", found=_dotted(build))
    best = fixes.best_build(gpu.compute_capability, facts.driver) if gpu else fixes.BUILDS[0]
    if torch is None:
        value = say(lang, "none")
    else:
        value = _dotted(build) if build else say(lang, "cpu_build")
    return Check(
        key="cuda", label=say(lang, "cuda"), value=value, needed="≥ 12.6", page=PAGE_CUDA,
        finding="missing" if reason else "ok" if torch else "note", reason=reason,
        fix=fixes.install_torch(facts, best) if reason and best else None,
    )  # fmt: skip


def _driver(facts: MachineFacts, lang: Lang) -> Check:
    gpu = facts.gpu
    cuda = facts.torch.cuda_build if facts.torch else None
    best = fixes.best_build(gpu.compute_capability, facts.driver) if gpu else None
    # Where PyTorch has to be replaced anyhow, its best build is what the driver must run.
    cuda = cuda or (best.cuda if best else fixes.BUILDS[-1].cuda)
    least = fixes.least_driver(cuda)
    reason, fix = "", None
    if facts.driver is None:
        if gpu is None:
            reason = say(lang, "no_driver_wsl" if facts.system == "wsl" else "no_driver")
            fix = fixes.install_driver(facts)
    elif fixes.driver_major(facts.driver) < least:
        runs = best is not None and best.driver <= fixes.driver_major(facts.driver)
        reason = say(
            lang, "driver_old_for_build" if runs else "driver_old",
            driver=facts.driver, needed=least, cuda=_dotted(cuda),
        )  # fmt: skip
        fix = fixes.install_torch(facts, best) if runs else fixes.install_driver(facts)
    return Check(
        key="driver", label=say(lang, "driver"), value=facts.driver or say(lang, "none"),
        needed=f"≥ {least} (CUDA {cuda[0]})", page=NO_PAGE,
        finding="missing" if reason else "ok", reason=reason, fix=fix,
    )  # fmt: skip


def _cudnn(facts: MachineFacts, torch: TorchFacts, lang: Lang) -> Check:
    absent = torch.cudnn is None
    best = fixes.best_build(facts.gpu.compute_capability, facts.driver) if facts.gpu else None
    return Check(
        key="cudnn", label=say(lang, "cudnn"), value=torch.cudnn or say(lang, "none"),
        needed="", page=NO_PAGE, finding="missing" if absent else "ok",
        reason=say(lang, "cudnn_absent") if absent else "",
        fix=fixes.install_torch(facts, best or fixes.BUILDS[0]) if absent else None,
    )  # fmt: skip


def _gpu(facts: MachineFacts, gpu: GpuFacts, lang: Lang) -> Check:
    torch, cc = facts.torch, gpu.compute_capability
    best = fixes.best_build(cc, facts.driver)
    legacy = best is not None and cc < fixes.BUILDS[0].lowest
    reason, fix = "", None
    if best is None:
        reason = say(lang, "gpu_no_build", cc=_dotted(cc))
    elif torch and torch.cuda_build and not has_kernels(torch, cc):
        reason = say(
            lang, "gpu_other_build", cuda=_dotted(torch.cuda_build), cc=_dotted(cc),
            build=best.tag, last=say(lang, "last_build") if legacy else "",
        )  # fmt: skip
        fix = fixes.install_torch(facts, best)
    elif torch and torch.cuda_build and not torch.sees_gpu and _driver_runs(facts, torch):
        reason, fix = say(lang, "gpu_hidden", gpu=gpu.name), fixes.unhide_gpu(facts.system)
    note = say(lang, "legacy_gpu", build=best.tag) if best and legacy and not reason else ""
    return Check(
        key="gpu", label=say(lang, "gpu"),
        value=say(lang, "capability", gpu=gpu.name, cc=_dotted(cc)),
        needed="≥ 5.0" if legacy or best is None else "≥ 7.5",
        page=PAGE_GPU,
        finding="missing" if reason else "note" if note else "ok",
        reason=reason or note, fix=fix,
    )  # fmt: skip


def _driver_runs(facts: MachineFacts, torch: TorchFacts) -> bool:
    least = fixes.least_driver(torch.cuda_build or CUDA)
    return facts.driver is not None and fixes.driver_major(facts.driver) >= least


def _vram(facts: MachineFacts, gpu: GpuFacts, needs: JobNeeds, lang: Lang) -> Check:
    needed = f"{needs.vram_bytes / GIB:.1f}"
    finding: Finding = "ok"
    reason, fix = "", None
    if gpu.memory_bytes < needs.vram_bytes:
        finding = "missing"
        reason = say(lang, "vram_small", model=needs.model, needed=needed)
        fix = f"repotune tune PATH --model {needs.smaller_model}"
    elif gpu.free_bytes < needs.vram_bytes:
        finding = "missing"
        reason, fix = _filled(facts, gpu, needed, lang)
    elif gpu.free_bytes < ROOM * needs.vram_bytes:
        finding, reason = "tight", say(lang, "vram_tight")
    free, total = f"{gpu.free_bytes / GIB:.1f}", f"{gpu.memory_bytes / GIB:.1f}"
    return Check(
        key="vram", label=say(lang, "vram"),
        value=say(lang, "free_of", free=free, total=total) + _users(gpu),
        needed=f"{needed} GiB", page=PAGE_VRAM, finding=finding, reason=reason, fix=fix,
    )  # fmt: skip


def _users(gpu: GpuFacts) -> str:
    """The three largest that hold memory: ``; python 4242: 9.1 GiB``."""
    return "".join(
        f"; {one.name} {one.pid}" + (f": {one.used_bytes / GIB:.1f} GiB" if one.used_bytes else "")
        for one in gpu.processes[:3]
    )


def _filled(facts: MachineFacts, gpu: GpuFacts, needed: str, lang: Lang) -> tuple[str, str]:
    used = f"{(gpu.memory_bytes - gpu.free_bytes) / GIB:.1f}"
    largest = gpu.processes[0] if gpu.processes else None
    if largest is None or largest.used_bytes is None:
        # Without figures (Windows) the first may well be the desktop itself.
        reason = say(lang, "vram_filled_unseen", used=used, needed=needed)
        return reason, fixes.show_gpu_users(facts.system)
    reason = say(
        lang, "vram_filled", used=used, needed=needed, name=largest.name,
        pid=say(lang, "process", pid=largest.pid),
        held=f"{largest.used_bytes / GIB:.1f}",
    )  # fmt: skip
    return reason, fixes.end_process(facts.system, largest)


def _bf16(gpu: GpuFacts, lang: Lang) -> Check:
    has_it = gpu.compute_capability >= BF16
    return Check(
        key="bf16", label=say(lang, "bf16"), value=say(lang, "yes" if has_it else "no"),
        needed="", page=NO_PAGE, finding="ok" if has_it else "note",
        reason="" if has_it else say(lang, "no_bf16"), fix=None,
    )  # fmt: skip


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
