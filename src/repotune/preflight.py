"""Before a run: is this machine fit, how fast is it, what would the run need, take and cost.

The verbs behind ``repotune doctor``, ``calibrate``, ``plan`` and ``requirements``; ``pipeline`` is
the run itself. Torch is imported inside the verbs that need it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from repotune.config import FineTuningConfig
from repotune.errors import DownloadError, ModelError, UsageError
from repotune.events import Emit, StageDone, StageStarted, ignore
from repotune.job import CPU_MODEL, GPU_MODEL, SLOW_FP16, quantised_folder
from repotune.planning import (
    FUSED_SINCE,
    Setup,
    disk,
    gpu_context,
    gpu_target,
    least_gpu_bytes,
    smaller_model,
)
from repotune.planning.claims import FILES, workload
from repotune.planning.fit import lora_of
from repotune.planning.policy import GIB
from repotune.records import (
    LINEAR_MODULES,
    Diagnosis,
    Gpu,
    LoraSpec,
    MachineRates,
    ModelRef,
    Plan,
    Shape,
)
from repotune.tables import find_gpu

if TYPE_CHECKING:
    from repotune.machine import JobNeeds, MachineFacts, RandomWeights
    from repotune.machine.facts import Purpose
    from repotune.machine.texts import Lang
    from repotune.model import Decoder

Form: TypeAlias = Literal["md", "html", "json"]
PRICE_PER_KWH = 0.17
"""USD: the average of households in the United States, 2025 (EIA)."""


def doctor(*, models: Path, lang: Lang = "en", compiler: str | None = None) -> Diagnosis:
    """Whether ``tune`` would start on this machine with its defaults, and what to mend.

    ``models`` is where downloaded models lie, ``compiler`` what the environment's CC says, if it
    does. With a GPU, one layer is trained on it.
    """
    from repotune.machine import (
        cache_folder,
        conclude,
        expects_gpu,
        gather,
        judge,
        judge_layer,
        try_layer,
    )

    places: dict[Purpose, Path]
    places = {"models": models, "cache": cache_folder(), "runs": Path.cwd()}
    facts, trial = gather(places, compiler=compiler), None
    if expects_gpu(facts) and facts.torch and facts.torch.sees_gpu:
        trial = try_layer(_one_layer, "cuda")
        if not trial.error:  # or the GPU itself would be blamed on Triton
            facts = _with_triton_tried(facts)
    needs = main_job(facts)
    checks = judge(facts, needs, lang)
    if trial is not None:
        checks += (judge_layer(facts, trial, lang),)
    return conclude(checks, needs, lang)


def _with_triton_tried(facts: MachineFacts) -> MachineFacts:
    """With what a trial on the GPU says of Triton, where a run would use it."""
    from repotune.kernels import what_triton_says
    from repotune.machine.triton import TritonFault

    if facts.gpu is None or facts.gpu.compute_capability < FUSED_SINCE or facts.triton is None:
        return facts
    said = what_triton_says()
    fault = None if said is None else TritonFault(key="triton_fails", detail=said)
    return replace(facts, triton_fault=fault)


def calibrate(*, emit: Emit = ignore) -> MachineRates:
    """Measure this machine's rates, on its GPU if it has one, and keep them for later plans."""
    import torch

    from repotune.machine import calibrate as measure
    from repotune.machine import write_rates

    emit(StageStarted(stage="calibration"))
    rates = measure("cuda" if torch.cuda.is_available() else "cpu")
    path = write_rates(rates, emit=emit)
    if path is not None:
        emit(StageDone(stage="calibration", summary=f"kept in {path}"))
    return rates


def plan(
    code: Path | tuple[int, float], config: FineTuningConfig | None = None, *,
    model: str | None = None, gpu: str | None = None, price_per_kwh: float = PRICE_PER_KWH,
    across: Literal["gpus", "models"] | None = None, compiler: str | None = None,
    emit: Emit = ignore,
) -> tuple[Plan, ...]:  # fmt: skip
    """What tuning on ``code``, a tree or (files, tokens per file), needs, takes and costs.

    For the GPU that is named, else for this machine; ``config`` None: settings that suit it. The
    first plan is the one asked for, ``across`` adds one for each known GPU or model. ``compiler``:
    what the environment's CC says, if it does. No torch, but for the tokenizer of a tree. Raises
    UsageError, ModelError and CorpusError.
    """
    from repotune import survey

    target, notes = (
        survey.this_target(emit, compiler=compiler) if gpu is None else survey.named_target(gpu)
    )
    asked = config.model if model is None and config is not None else model
    default = GPU_MODEL if target.device == "cuda" else CPU_MODEL
    subject = survey.find_subject(default if asked is None else asked)
    rented = survey.find_subject(GPU_MODEL if asked is None else asked)
    base = config or FineTuningConfig()
    if base.precision == "fp16" and target.device == "cpu":
        notes.append(f"{SLOW_FP16}, which the hours of this plan leave out.")
    if isinstance(code, Path):
        workload = survey.code_in(
            code, subject.name, keep_vendored=base.keep_vendored, seed=base.seed, emit=emit
        )
    else:
        workload = survey.given_code(*code)
    return survey.plans(
        target, subject, config, workload, rented=rented, price_per_kwh=price_per_kwh,
        across=across, notes=notes,
    )  # fmt: skip


def requirements(*, model: str | None = None, lang: Lang = "en", form: Form = "md") -> str:
    """The page of requirements of a model that plans without a network, or lies in a folder.

    Raises ModelError for a model that is neither.
    """
    from repotune import survey
    from repotune.requirements import collect, document, to_html, to_json, to_markdown

    subject = survey.find_subject(model or GPU_MODEL)
    page = collect(subject.name, subject.shape, subject.download_bytes)
    if form == "json":
        return to_json(page, lang)
    return (to_html if form == "html" else to_markdown)(document(page, lang))


def main_job(facts: MachineFacts) -> JobNeeds:
    """What ``tune`` without settings asks of this machine: by the planner, for 10,000 files."""
    from repotune.machine import CPU_RAM_BYTES, GPU_RAM_BYTES, JobNeeds, expects_gpu
    from repotune.survey import find_subject

    on_gpu = expects_gpu(facts)
    subject = find_subject(GPU_MODEL if on_gpu else CPU_MODEL)
    base, error = _base_here(subject.name) if facts.torch else (None, "")
    setup = Setup(
        shape=subject.shape, lora=lora_of(FineTuningConfig()), tokens=0, itemsize=2,
        device="cuda" if on_gpu else "cpu", use_4bit=on_gpu,
    )  # fmt: skip
    items = disk(setup, 0 if base else subject.download_bytes, workload(FILES))
    sizes = {name: round(item.high * GIB) for name, item in items.items()}
    kept = kept_bytes(base) if base and on_gpu else 0
    return JobNeeds(
        model=subject.name,
        on_gpu=on_gpu,
        vram_bytes=_least_vram(subject.shape, facts) if on_gpu else 0,
        smaller_model=_smaller(subject.shape, facts),
        ram_bytes=GPU_RAM_BYTES if on_gpu else CPU_RAM_BYTES,
        model_disk_bytes=sizes["download"],
        cache_disk_bytes=max(0, sizes["quantised_weights"] - kept),
        run_disk_bytes=sizes["checkpoints"] + sizes["adapter"] + sizes["corpus"],
        model_error=error,
    )


def _least_vram(shape: Shape, facts: MachineFacts) -> int:
    """By the planner, with the context of this GPU and the host's free memory."""
    return least_gpu_bytes(
        shape,
        context_bytes=round(gpu_context(_row(facts), None).expected),
        host_free_bytes=facts.ram_free_bytes,
        plain=facts.gpu is not None and not _is_fused(facts, facts.gpu.compute_capability),
    )


def _is_fused(facts: MachineFacts, capability: tuple[int, int]) -> bool:
    return facts.has_triton and capability >= FUSED_SINCE


def _smaller(shape: Shape, facts: MachineFacts) -> str:
    """The planner's proposal for the whole of this GPU; the smallest model where it has none."""
    row = _row(facts)
    if facts.gpu is None or row is None:
        return CPU_MODEL
    target = gpu_target(row)
    free = facts.gpu.memory_bytes - round(target.context.expected)
    here = replace(
        target, free_bytes=free, host_free_bytes=facts.ram_free_bytes,
        fused=_is_fused(facts, row.compute_capability),
    )  # fmt: skip
    found = smaller_model(shape, here, FineTuningConfig())
    return CPU_MODEL if found is None else found[0].name


def _row(facts: MachineFacts) -> Gpu | None:
    if facts.gpu is None:
        return None
    try:
        return find_gpu(facts.gpu.name, facts.gpu.memory_bytes).gpu
    except UsageError:  # no table knows it
        return None


def _base_here(model: str) -> tuple[ModelRef | None, str]:
    """The model if it lies on this disk, and why it never can."""
    from repotune.model import resolve_model

    try:
        return resolve_model(model, revision=None, offline=True, cache=None, emit=ignore), ""
    except DownloadError:  # not here yet, which is no error before the first run
        return None, ""
    except ModelError as refused:
        return None, str(refused)


def kept_bytes(base: ModelRef) -> int:
    """Of the 4-bit weights that an earlier run has kept."""
    from repotune.machine import precision_here, probe

    folder = quantised_folder(base, precision_here("auto", probe()))
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.is_dir() else 0


def _one_layer(weights: RandomWeights, device: str) -> Decoder:
    """The decoder of ``doctor``'s trial: in 4 bits; on a GPU in the precision that a run takes."""
    import torch

    from repotune.kernels import fastest_ops
    from repotune.model import Decoder

    dtype = torch.float32
    if device == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if has_bf16 else torch.float16
    ops, _ = fastest_ops(torch.device(device), dtype)
    return Decoder(
        weights,
        lora=LoraSpec(r=8, alpha=16.0, dropout=0.0, target_modules=LINEAR_MODULES),
        dtype=dtype,
        device=device,
        ops=ops,
        use_4bit=True,
    )
