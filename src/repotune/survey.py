"""What a plan has to know beforehand, without torch: this machine, the model, and the code.

The machine is asked through its driver and PyTorch's version file, the code by a sample, the model
by the tables or its folder. Nothing here opens a connection.
"""

from __future__ import annotations

import difflib
import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from repotune.config import FineTuningConfig
from repotune.errors import CorpusError, ModelError, RepotuneError, UsageError
from repotune.events import Emit, StageDone, StageStarted, ignore
from repotune.planning import (
    BYTES_PER_TOKEN,
    Target,
    Workload,
    fastest,
    gpu_target,
    machine_target,
    parameters,
    plan,
    suited_config,
)
from repotune.records import Alternative, Calibration, CloudOffer, Gpu, Machine, Plan, Range, Shape
from repotune.tables import (
    PRICES_CHANGE,
    clouds,
    find_gpu,
    gpus,
    known_model,
    models,
)

if TYPE_CHECKING:
    from repotune.corpus.walk import Candidate
    from repotune.tokens import CodeTokenizer

SAMPLE: Final = 400
"""Files that are read; of up to so many all are."""
SAMPLE_SECONDS: Final = 8.0
CONFIDENCE: Final = 2.0
"""Standard errors of the sample's mean on either side: 95 %."""
DUPLICATES: Final = 0.95
"""Files that are equal are learned once, which a sample does not see."""
PRESET_FIELDS: Final = (
    "batch_size", "gradient_accumulation_steps", "max_seq_length", "use_4bit",
)  # fmt: skip
CPUINFO: Final = Path("/proc/cpuinfo")
BF16_FLAGS: Final = ("avx512_bf16", "amx_bf16", "bf16")
"""Of x86 and of ARM, as Linux shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model of a plan."""

    name: str
    shape: Shape
    download_bytes: int


def find_subject(name: str) -> Subject:
    """The model ``name``: a hub id of the table, ``starter``, a folder or a .gguf file.

    Raises ModelError for an id that the table does not know, and for a folder that holds no model
    that can be trained.
    """
    known = known_model(name)
    if known is not None:
        is_here = name == "starter"
        size = 0 if is_here else known.download_bytes
        return Subject(name=known.name, shape=known.shape, download_bytes=size)
    path = Path(name).expanduser()
    if path.exists():
        return Subject(name=name, shape=_local_shape(path), download_bytes=0)
    near = difflib.get_close_matches(name, [model.name for model in models()], n=3, cutoff=0.5)
    hint = f"perhaps {' or '.join(near)} is meant" if near else "check the spelling"
    raise ModelError(
        f"{name} is not a model that plans without a network, nor a folder here: {hint}, "
        "or give the folder of a downloaded model."
    )


def all_subjects() -> tuple[Subject, ...]:
    """Each shape of the table once, under its first name."""
    seen: dict[Shape, Subject] = {}
    for model in models():
        size = 0 if model.name == "starter" else model.download_bytes
        subject = Subject(name=model.name, shape=model.shape, download_bytes=size)
        seen.setdefault(model.shape, subject)
    return tuple(seen.values())


def named_target(gpu: str) -> tuple[Target, list[str]]:
    """The GPU that a user named, and what has to be said of the name. Raises UsageError."""
    match = find_gpu(gpu)
    return gpu_target(match.gpu), [match.note] if match.note else []


def this_target(emit: Emit = ignore) -> tuple[Target, list[str]]:
    """This machine's GPU, or its processor, with what was measured on it; and notes.

    Raises UsageError for a GPU that is neither in the table nor measured.
    """
    machine, total_bytes, calibration, notes = _look(emit)
    row = None
    if machine.gpu is not None:
        try:
            row = find_gpu(machine.gpu, total_bytes).gpu
        except UsageError as unknown:
            notes.append(str(unknown))
    return machine_target(machine, row, calibration), notes


def given_code(files: int, tokens_per_file: float) -> Workload:
    """So many files, without a tree."""
    tokens = files * tokens_per_file
    return Workload(
        files=files,
        tokens=Range(low=tokens, expected=tokens, high=tokens),
        note=f"{files:,} files of {tokens_per_file:,.0f} tokens are taken as given.",
    )


def code_in(
    tree: Path, model: str, *, keep_vendored: bool, seed: int, emit: Emit = ignore
) -> Workload:
    """The files of ``tree`` that would be kept, and their tokens.

    Up to 400 files are read; of more, so many are sampled and the rest is estimated from their
    sizes. Raises CorpusError if there is no code.
    """
    from repotune.corpus.examine import examine
    from repotune.corpus.walk import Candidate, walk

    emit(StageStarted(stage="survey"))
    found = walk(tree, exclude=(), keep_vendored=keep_vendored)
    candidates = [one for one in found if isinstance(one, Candidate)]
    # A random order, so that whatever is read before the time is up is a sample.
    order = random.Random(seed).sample(candidates, len(candidates))
    deadline = time.monotonic() + SAMPLE_SECONDS
    read: list[tuple[Candidate, str | None]] = []
    for candidate in order[:SAMPLE]:
        read.append((candidate, examine(candidate).text))
        if time.monotonic() > deadline:
            break
    if not any(text for _, text in read):
        raise CorpusError(
            f"{tree} holds no code to learn from among {len(read)} files that were read: "
            "name a folder with source code."
        )
    workload = _estimate(candidates, read, _tokenizer_of(model))
    emit(StageDone(stage="survey", summary=workload.note))
    return workload


def plans(
    target: Target, subject: Subject, config: FineTuningConfig | None, workload: Workload, *,
    price_per_kwh: float, across: Literal["gpus", "models"] | None, notes: Sequence[str],
) -> tuple[Plan, ...]:  # fmt: skip
    """The plan of ``subject`` on ``target`` with the cloud offers, and those to compare it with."""
    offers = [(offer, find_gpu(offer.gpu).gpu) for offer in clouds()]

    def on(target: Target, subject: Subject, offers: Sequence[tuple[CloudOffer, Gpu]] = ()) -> Plan:
        return _plan_for(
            target, subject, config, workload, price_per_kwh=price_per_kwh, offers=offers,
            notes=[*notes, PRICES_CHANGE],
        )  # fmt: skip

    asked = on(target, subject, offers)
    if across == "gpus":
        return asked, *(on(gpu_target(row), subject) for row in gpus())
    if across == "models":
        return asked, *(on(target, one) for one in all_subjects())
    return (asked,)


def _plan_for(
    target: Target, subject: Subject, config: FineTuningConfig | None, workload: Workload, *,
    price_per_kwh: float, offers: Sequence[tuple[CloudOffer, Gpu]], notes: Sequence[str],
) -> Plan:  # fmt: skip
    """``config`` None: the settings that suit the device."""
    base = config or suited_config(subject.name, subject.shape, target, FineTuningConfig())
    made = plan(
        model=subject.name,
        shape=subject.shape,
        download_bytes=subject.download_bytes,
        target=target,
        config=base.merged({"model": subject.name}),
        workload=workload,
        price_per_kwh=price_per_kwh,
        offers=offers,
        notes=notes,
    )
    if made.verdict != "does_not_fit" or made.nearest is not None:
        return made
    return replace(made, nearest=_smaller_model(target, subject, base, workload))


def _smaller_model(
    target: Target, subject: Subject, base: FineTuningConfig, workload: Workload
) -> Alternative | None:
    """The largest known model that fits where no setting makes the one asked for fit."""
    size = parameters(subject.shape)
    smaller = [one for one in all_subjects() if parameters(one.shape) < size]
    for one in sorted(smaller, key=lambda one: parameters(one.shape), reverse=True):
        config = fastest(one.shape, target, base)
        if config is None:
            continue
        made = plan(
            model=one.name, shape=one.shape, download_bytes=one.download_bytes, target=target,
            config=config, workload=workload,
        )  # fmt: skip
        return Alternative(
            changes={"model": one.name, **{name: made.config[name] for name in PRESET_FIELDS}},
            peak_vram_gib=made.peak_vram_gib,
            hours=made.hours,
            reason=f"No settings make it fit; {one.name} fits with max_seq_length = "
            f"{config.max_seq_length} and takes {made.hours.expected:.1f} hours.",
        )
    return None


def _estimate(
    candidates: Sequence[Candidate],
    read: Sequence[tuple[Candidate, str | None]],
    tokenizer: CodeTokenizer | None,
) -> Workload:
    """Ratio estimate: tokens per byte on disk of the sample, times all bytes on disk."""
    texts = [text or "" for _, text in read]
    if tokenizer is None:
        counts = [len(text.encode()) / BYTES_PER_TOKEN.expected for text in texts]
    else:
        counts = [float(len(ids)) for ids in tokenizer.encode_lists(texts)]
    sizes = [candidate.size_bytes for candidate, _ in read]
    ratio = sum(counts) / sum(sizes)
    complete = len(read) == len(candidates)
    error = 0.0 if complete else CONFIDENCE * _relative_error(counts, sizes, ratio)
    tokens = ratio * sum(candidate.size_bytes for candidate in candidates)
    low, high = max(0.5, 1 - error) * DUPLICATES, 1 + error
    if tokenizer is None:
        low *= BYTES_PER_TOKEN.expected / BYTES_PER_TOKEN.high
        high *= BYTES_PER_TOKEN.expected / BYTES_PER_TOKEN.low
    kept = sum(bool(text) for text in texts)
    files = round(kept / len(read) * len(candidates))
    how = (
        "with the model's tokenizer"
        if tokenizer is not None
        else f"at {BYTES_PER_TOKEN.expected} bytes a token, since the tokenizer is not on this disk"
    )
    note = (
        f"{files:,} files with {tokens:,.0f} tokens were counted {how}."
        if complete
        else f"About {files:,} files with {tokens:,.0f} tokens are estimated from a sample of "
        f"{len(read)} of {len(candidates):,} files, {how}."
    )
    return Workload(
        files=files,
        tokens=Range(low=tokens * low, expected=tokens, high=tokens * high),
        note=note,
    )


def _relative_error(counts: Sequence[float], sizes: Sequence[int], ratio: float) -> float:
    """Standard error of a ratio estimate, over the estimate (Cochran, Sampling Techniques, 6.4)."""
    n = len(counts)
    residuals = sum((c - ratio * s) ** 2 for c, s in zip(counts, sizes, strict=True))
    return float((residuals / max(1, n - 1) / n) ** 0.5 / (sum(counts) / n))


def _tokenizer_of(model: str) -> CodeTokenizer | None:
    """The model's tokenizer, if it lies on this disk."""
    from repotune.model import resolve_model
    from repotune.tokens import load_tokenizer

    try:
        ref = resolve_model(model, revision=None, offline=True, cache=None, emit=ignore)
        return load_tokenizer(Path(ref.path))
    except RepotuneError:
        return None


def _local_shape(path: Path) -> Shape:
    from repotune.gguf_file import open_gguf
    from repotune.model.shape import CONFIG_FILE, config_shape, gguf_shape, is_gguf, read_config

    if path.is_dir():
        return config_shape(read_config(path), path / CONFIG_FILE)
    if is_gguf(path):
        return gguf_shape(open_gguf(path))
    raise ModelError(f"{path} is not a model: give a folder with config.json or a .gguf file.")


def _look(emit: Emit) -> tuple[Machine, int, Calibration | None, list[str]]:
    """This computer, its GPU's memory in all, what was measured on it, and notes; no torch."""
    from repotune.machine.calibrate import for_precision
    from repotune.machine.driver import ask_driver
    from repotune.machine.identity import machine_id
    from repotune.machine.outcomes import track_record
    from repotune.machine.probe import cpu_name, ram, usable_cores
    from repotune.machine.store import read_outcomes, read_rates

    torch, cuda = torch_build()
    driver, notes = ask_driver(), []
    gpu = driver.gpus[0] if driver is not None and driver.gpus and cuda else None
    if driver is not None and driver.gpus and not cuda:
        notes.append(
            f"PyTorch {torch or 'is not installed or'} cannot use the {driver.gpus[0].name}: "
            "`repotune doctor` says which build can, and the plan is for the processor."
        )
    elif gpu is None:
        notes.append(
            "No NVIDIA driver answers here, so the plan is for the processor: --gpu NAME plans for "
            "a GPU, `repotune doctor` says what is missing if there is one."
        )
    if gpu is not None and driver is not None:
        key = machine_id(gpu.name, gpu.uuid.removeprefix("GPU-"), driver.version, torch)
        bf16 = gpu.compute_capability >= (8, 0)
        notes += _taken(gpu.memory_bytes, gpu.free_bytes, [one.name for one in gpu.processes])
        precision = "bf16" if bf16 else "fp16"
    else:
        key = machine_id(cpu_name(), f"{usable_cores()} cores", "", torch)
    rates = read_rates(key, emit=emit)
    if gpu is None:
        flags = _cpu_flags()
        known = rates.matmul_flops_per_second if rates else flags
        bf16 = bool({"bf16", *BF16_FLAGS} & set(known))
        precision = "bf16" if bf16 else "fp32"
    ram_bytes, ram_free_bytes = ram()
    machine = Machine(
        platform="",
        python="",
        torch=torch,
        cpu=cpu_name(),
        cores=usable_cores(),
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        gpu=gpu.name if gpu else None,
        gpu_free_bytes=gpu.free_bytes if gpu else 0,
        bf16=bf16,
    )
    measured = for_precision(rates, precision) if rates else None
    if (record := track_record(read_outcomes(key, emit=emit))) is not None:
        notes.append(record)
    return machine, gpu.memory_bytes if gpu else 0, measured, notes


def torch_build() -> tuple[str, str]:
    """PyTorch's version and the CUDA it was built with, each empty if there is none; importing it
    would take seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "", ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return "", ""
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*= '([^']*)'", text, re.MULTILINE)
    return version[1] if version else "", cuda[1] if cuda else ""


def _taken(total: int, free: int, processes: Iterable[str]) -> list[str]:
    """A note where others hold more of the GPU than a desktop does."""
    if free > 0.8 * total:
        return []
    names = ", ".join(dict.fromkeys(processes)) or "other processes"
    return [
        f"{(total - free) / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB are held by {names}: "
        "end them to have it all."
    ]


def _cpu_flags() -> tuple[str, ...]:
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return tuple(found[1].split()) if found else ()
