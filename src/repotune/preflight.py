"""Before a run: is this machine fit, how fast is it, what would the run need, take and cost.

The verbs behind ``repotune doctor``, ``calibrate``, ``plan`` and ``requirements``; ``pipeline`` is
the run itself. Torch is imported inside the verbs that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from repotune.config import FineTuningConfig
from repotune.errors import DownloadError, ModelError
from repotune.events import Emit, StageDone, StageStarted, ignore
from repotune.job import CPU_MODEL, GPU_MODEL, SLOW_FP16
from repotune.records import LINEAR_MODULES, Diagnosis, LoraSpec, MachineRates, Plan

if TYPE_CHECKING:
    from repotune.machine import JobNeeds, RandomWeights
    from repotune.machine.texts import Lang
    from repotune.model import Decoder

Form: TypeAlias = Literal["md", "html", "json"]
PRICE_PER_KWH = 0.17
"""USD: the average of households in the United States, 2025 (EIA)."""
LEAST_VRAM_BYTES = int(4.9 * 2**30)
"""CodeLlama 7B in 4 bits at 1 x 1,024 tokens, as measured on the device."""


def doctor(*, models: Path, lang: Lang = "en") -> Diagnosis:
    """Whether ``tune`` would start on this machine with its defaults, and what to mend.

    ``models`` is where downloaded models lie. With a GPU, one layer is trained on it.
    """
    from repotune.machine import conclude, expects_gpu, gather, judge, judge_layer, try_layer

    facts = gather({"models": models, "runs": Path.cwd()})
    needs = _main_job(on_gpu=expects_gpu(facts), has_torch=facts.torch is not None)
    checks = judge(facts, needs, lang)
    if needs.on_gpu and facts.torch and facts.torch.sees_gpu:
        checks += (judge_layer(facts, try_layer(_one_layer, "cuda"), lang),)
    return conclude(checks, needs, lang)


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
    across: Literal["gpus", "models"] | None = None, emit: Emit = ignore,
) -> tuple[Plan, ...]:  # fmt: skip
    """What tuning on ``code``, a tree or (files, tokens per file), needs, takes and costs.

    For the GPU that is named, else for this machine; ``config`` None: settings that suit it. The
    first plan is the one asked for, ``across`` adds one for each known GPU or model. No torch, but
    for the tokenizer of a tree. Raises UsageError, ModelError and CorpusError.
    """
    from repotune import survey

    target, notes = survey.named_target(gpu) if gpu else survey.this_target(emit)
    name = model or (config and config.model)
    on_gpu = target.device == "cuda" or across == "gpus"
    subject = survey.find_subject(name or (GPU_MODEL if on_gpu else CPU_MODEL))
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
        target, subject, config, workload, price_per_kwh=price_per_kwh, across=across, notes=notes
    )


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


def _main_job(*, on_gpu: bool, has_torch: bool) -> JobNeeds:
    """What ``tune`` without settings asks of this machine."""
    from repotune.machine import main_job

    model, is_here, error = GPU_MODEL if on_gpu else CPU_MODEL, False, ""
    if has_torch:
        from repotune.model import resolve_model

        try:
            resolve_model(model, revision=None, offline=True, cache=None, emit=ignore)
            is_here = True
        except DownloadError:  # not here yet, which is no error before the first run
            pass
        except ModelError as refused:
            error = str(refused)
    return main_job(
        model, on_gpu=on_gpu, vram_bytes=LEAST_VRAM_BYTES, is_here=is_here, model_error=error
    )


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
