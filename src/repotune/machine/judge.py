"""Is this machine fit for it? Facts in, one finding a line out; nothing is looked up here.

The floors are those of this project, the page's stand beside them. Memory is judged against what
the planner says that the job needs, never against a card's name.
"""

from __future__ import annotations

import re
from typing import Final

from repotune.machine import fixes
from repotune.machine.disks import GB, judge_disks
from repotune.machine.facts import JobNeeds, MachineFacts
from repotune.machine.graphics import judge_graphics
from repotune.machine.texts import Lang, say
from repotune.records import Check, Diagnosis, Finding

GIB: Final = 2**30
PYTHON: Final = ((3, 10), (3, 13))
TORCH: Final = ((2, 11), (2, 14))
FEW_CORES: Final = 8
"""The page's advice for its minimum."""
NO_PAGE: Final = ("", "", "")
TIGHT_RAM_BYTES: Final = 15 * GB
"""A computer sold with the page's 16 GB shows a little less."""


def expects_gpu(facts: MachineFacts) -> bool:
    """Whether the main job here is the one for a GPU, be it that the GPU cannot be used yet.

    In WSL the GPU is Windows', so a PyTorch with CUDA is what tells that one is meant to be there.
    """
    in_wsl = facts.system == "wsl" and facts.torch is not None and facts.torch.cuda_build
    return facts.gpu is not None or facts.nvidia_hardware or bool(in_wsl)


def judge(facts: MachineFacts, needs: JobNeeds, lang: Lang = "en") -> tuple[Check, ...]:
    """A finding for each line, in the order in which one would mend them."""
    return (
        _system(facts, lang),
        _cpu(facts, lang),
        _python(facts, lang),
        _torch(facts, lang),
        *judge_graphics(facts, needs, lang),
        _ram(facts, needs, lang),
        *judge_disks(facts, needs, lang),
        _model(facts, needs, lang),
        *_add_ons(facts, lang),
    )


def conclude(checks: tuple[Check, ...], needs: JobNeeds, lang: Lang = "en") -> Diagnosis:
    """The main job starts if nothing is missing."""
    count = sum(check.finding == "missing" for check in checks)
    key = "starts_not" if count else "starts"
    summary = say(lang, key, model=needs.model, count=count)
    return Diagnosis(checks=checks, model=needs.model, starts=not count, summary=summary)


def _system(facts: MachineFacts, lang: Lang) -> Check:
    on_mac = facts.system == "macos"
    value = f"WSL, {facts.system_name}" if facts.system == "wsl" else facts.system_name
    return Check(
        key="system", label=say(lang, "system"), value=value,
        needed="", page=NO_PAGE, finding="note" if on_mac else "ok",
        reason=say(lang, "macos") if on_mac else "", fix=None,
    )  # fmt: skip


def _cpu(facts: MachineFacts, lang: Lang) -> Check:
    few = facts.cores < FEW_CORES
    return Check(
        key="cpu", label=say(lang, "cpu"),
        value=say(lang, "cores", cpu=facts.cpu, cores=facts.cores),
        needed="",
        page=(
            f"i5 / Ryzen 5, {say(lang, 'page_cores', cores=8)}",
            f"i7 / Ryzen 7, {say(lang, 'page_cores', cores=12)}",
            f"i9 / Ryzen 9, {say(lang, 'page_cores', cores=16)}",
        ),
        finding="tight" if few else "ok",
        reason=say(lang, "few_cores", cores=facts.cores) if few else "", fix=None,
    )  # fmt: skip


def _python(facts: MachineFacts, lang: Lang) -> Check:
    lowest, highest = PYTHON
    fits = lowest <= facts.python[:2] <= highest
    return Check(
        key="python", label=say(lang, "python"), value=".".join(map(str, facts.python)),
        needed="3.10–3.13", page=("3.10", "3.11", ""),
        finding="ok" if fits else "missing",
        reason="" if fits else say(lang, "python_range"),
        fix=None if fits else fixes.new_environment(facts.system),
    )  # fmt: skip


def _torch(facts: MachineFacts, lang: Lang) -> Check:
    reason = ""
    if facts.torch is None:
        reason = say(lang, "torch_absent", error=facts.torch_error)
    elif not TORCH[0] <= _version(facts.torch.version) <= TORCH[1]:
        reason = say(lang, "torch_old", version=facts.torch.version)
    build = fixes.best_build(facts.gpu.compute_capability, facts.driver) if facts.gpu else None
    return Check(
        key="torch", label=say(lang, "torch"),
        value=facts.torch.version if facts.torch else say(lang, "none"),
        needed="2.11–2.14", page=("2.0", "", ""),
        finding="missing" if reason else "ok", reason=reason,
        fix=fixes.install_torch(facts, build) if reason else None,
    )  # fmt: skip


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _ram(facts: MachineFacts, needs: JobNeeds, lang: Lang) -> Check:
    finding: Finding = "ok"
    reason = ""
    needed = f"{needs.ram_bytes / GIB:.1f}"
    if facts.ram_free_bytes < needs.ram_bytes:
        finding, reason = "missing", say(lang, "ram_short", needed=needed)
    elif facts.ram_bytes < TIGHT_RAM_BYTES and needs.on_gpu:
        finding, reason = "tight", say(lang, "ram_tight")
    return Check(
        key="ram", label=say(lang, "ram"),
        value=_free_of(facts.ram_free_bytes, facts.ram_bytes, lang),
        needed=f"{needed} GiB", page=("16 GB", "32 GB", "64 GB"),
        finding=finding, reason=reason,
        fix=fixes.show_ram_use(facts.system) if finding == "missing" else None,
    )  # fmt: skip


def _free_of(free: int, total: int, lang: Lang) -> str:
    return say(lang, "free_of", free=f"{free / GIB:.1f}", total=f"{total / GIB:.1f}")


def _model(facts: MachineFacts, needs: JobNeeds, lang: Lang) -> Check:
    size = f"{needs.model_disk_bytes / GB:.1f}"
    value = say(
        lang, "model_download" if needs.model_disk_bytes else "model_here",
        model=needs.model, size=size,
    )  # fmt: skip
    fix = fixes.install(facts, "--no-deps", fixes.STARTER) if not needs.on_gpu else None
    return Check(
        key="model", label=say(lang, "model"),
        value=needs.model if needs.model_error else value,
        needed="", page=NO_PAGE, finding="missing" if needs.model_error else "ok",
        reason=needs.model_error, fix=fix if needs.model_error else None,
    )  # fmt: skip


def _add_ons(facts: MachineFacts, lang: Lang) -> tuple[Check, Check]:
    triton_helps = facts.gpu is not None and not facts.has_triton
    fault = facts.triton_fault if facts.triton else None
    clause = say(lang, fault.key, detail=fault.detail) if fault else ""
    reason = say(lang, "triton_broken", fault=clause) if fault else say(lang, "triton_absent")
    return (
        Check(
            key="bitsandbytes", label=say(lang, "bitsandbytes"),
            value=facts.bitsandbytes or say(lang, "none"), needed=say(lang, "not_needed"),
            page=NO_PAGE, finding="note", reason=say(lang, "bitsandbytes_unused"), fix=None,
        ),
        Check(
            key="triton", label=say(lang, "triton"),
            value=facts.triton or say(lang, "none"), needed="", page=NO_PAGE,
            finding="note" if triton_helps else "ok",
            reason=reason if triton_helps else "",
            fix=fixes.mend_triton(facts) if triton_helps else None,
        ),
    )  # fmt: skip
