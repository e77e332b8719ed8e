"""After a run: its adapter in the form that another program wants, proved by that program.

The verb behind ``repotune export``. Torch is imported inside it, once the arguments are known to
be good.
"""

from __future__ import annotations

import gc
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from repotune.durable import whole_folder, write_durably
from repotune.errors import DoesNotFit, UsageError
from repotune.events import (
    Emit,
    Notice,
    StageDone,
    StageProgress,
    StageStarted,
    ignore,
)
from repotune.job import Job, settle, without_notices
from repotune.records import ExportFormat, HandOver, ModelRef, Proof, Quantisation
from repotune.runs import RunFolder, find_run
from repotune.vllm import NotServed, find_vllm

if TYPE_CHECKING:
    from repotune.export import MergedWeights
    from repotune.export.card import CardFacts
    from repotune.stages import Reading

DEFAULT_QUANTISATION: Final[Quantisation] = "q8_0"
ONE_TENSOR_BYTES: Final = 10
"""A number of the largest tensor takes this while it is merged: as read, as fp32, as stored."""
TEXTS_BYTES: Final = 50_000_000
"""Tokenizer, configuration and card: mostly a vocabulary, at most 20 MB twice."""
WEIGHTS, CHECK = "export", "check"
READERS: Final[dict[ExportFormat, tuple[str, ...]]] = {
    "peft": ("peft", "transformers"),
    "merged": ("transformers",),
    "vllm": ("transformers",),  # where vLLM itself is not there, or does not start
    "gguf": ("xllamacpp",),
    "ollama": ("xllamacpp",),
}
"""The packages that read an export."""
NOT_ASKED: Final[dict[ExportFormat, str]] = {
    "vllm": "vLLM itself did not read it, since it is not on PATH: try one completion with the "
    "command.",
    "ollama": "ollama itself did not read it: try one completion with the command.",
}
NOT_STARTED: Final = (
    "vLLM itself did not read it, since it did not start or answer: try one completion with the "
    "command."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What an export is made of."""

    run: RunFolder
    job: Job
    adapter: Path
    """A folder in PEFT's format."""
    step: int | None
    """The checkpoint that the adapter is of; None: the one that the run exported."""
    merged: MergedWeights
    format: ExportFormat
    quantisation: Quantisation
    name: str
    tokenizer: dict[str, Any]
    """The GGUF file's ``tokenizer.*``; empty for other formats."""
    quantiser: Path | None
    """The user's ``llama-quantize``, where it has to be used."""
    vllm: Path | None
    """The user's vLLM, for an export that is for it."""
    emit: Emit

    @property
    def is_gguf(self) -> bool:
        return self.format in ("gguf", "ollama")

    @property
    def file(self) -> str:
        return f"{self.name}-{self.quantisation.upper()}.gguf"


def export(
    run: str | Path, folder: str | Path, *, to: ExportFormat,
    quantisation: Quantisation | None = None, step: int | None = None, emit: Emit = ignore,
) -> HandOver:  # fmt: skip
    """Write the run's tuned model into ``folder``, which appears whole or not at all.

    ``to`` says for whom, ``quantisation`` how a GGUF file stores the weights (None: q8_0), ``step``
    that the kept checkpoint of that step is taken in the adapter's place. What was written is read
    by the program that it is for, as far as that is installed, and compared with our decoder.

    Raises UsageError for a folder that is taken or a combination that means nothing, RunError if
    the run has no such adapter, ModelError if its base model moved or changed, DiskFull and
    DoesNotFit where there is no room, ExportError if the other side does not load the export or
    computes something else.
    """
    from repotune.export import fresh
    from repotune.stages import adapter_folder

    target = Path(folder).absolute()
    if quantisation is not None and to not in ("gguf", "ollama"):
        raise UsageError(f"--quantisation is for gguf and ollama; {to} has 16-bit weights.")
    fresh.refuse_taken(target)
    found = find_run(run, Path.cwd())
    found.refuse_no_adapter(step)
    with found.locked():
        job = settle(found.state(), without_notices(emit), uses_gpu=False)
        with adapter_folder(found, job, step) as adapter:
            work = _prepare(found, job, adapter, step, to, quantisation, target, emit)
            fresh.refuse_no_room(target, _disk_bytes(work) + TEXTS_BYTES)
            _refuse_no_memory(work)
            with whole_folder(target, then="export again") as partial:
                return _export(work, partial, target)


def _prepare(
    run: RunFolder, job: Job, adapter: Path, step: int | None, to: ExportFormat,
    quantisation: Quantisation | None, target: Path, emit: Emit,
) -> _Work:  # fmt: skip
    from repotune.export import MergedWeights, adapter_shapes, find_program, read_adapter
    from repotune.tokens import gguf_metadata

    is_gguf = to in ("gguf", "ollama")
    quantiser = find_program() if is_gguf and quantisation == "q4_k_m" else None
    matrices = read_adapter(adapter, adapter_shapes(job.shape, job.lora), lora=job.lora)
    path = Path(job.base.path)
    return _Work(
        run=run,
        job=job,
        adapter=adapter,
        step=step,
        merged=MergedWeights(job.weights(), matrices, lora=job.lora),
        format=to,
        quantisation=quantisation or DEFAULT_QUANTISATION,
        name=re.sub(r"[^a-z0-9._-]+", "-", target.absolute().name.lower()).strip("-.") or "tuned",
        tokenizer=(
            gguf_metadata(path, job.shape.vocab_size, add_fim=job.add_fim) if is_gguf else {}
        ),
        quantiser=quantiser,
        vllm=find_vllm() if to == "vllm" else None,
        emit=emit,
    )


def _export(work: _Work, partial: Path, target: Path) -> HandOver:
    from repotune.export import how_to_check
    from repotune.stages import read_fixed_code, why_not_read

    facts = _card_facts(work)  # what cannot be read of the run is said before the work
    why_not, reading = None if work.vllm else how_to_check(*READERS[work.format]), None
    if why_not is None:
        reading = read_fixed_code(work.job, work.adapter)
        why_not = None if reading else why_not_read(work.job, "export again")
    _write(work, partial)
    not_asked = None if work.vllm else NOT_ASKED.get(work.format)
    proof = None
    if reading is not None and work.vllm is not None:
        proof, not_asked = _check_by_vllm(work, work.vllm, partial, target, reading)
        why_not = None if proof else how_to_check(*READERS[work.format])
    if reading is not None and proof is None and why_not is None:
        proof = _check(work, partial, reading)
    unchecked = tuple(one for one in (why_not, not_asked) if one is not None)
    _write_card(partial, replace(facts, proof=proof, unchecked=unchecked))
    return HandOver(
        format=work.format,
        folder=str(target),
        files={path.name: path.stat().st_size for path in sorted(partial.iterdir())},
        proof=proof,
        unchecked=unchecked,
        command=_command(work, str(target)),
    )


def _write(work: _Work, folder: Path) -> None:
    from repotune.export import MODELFILE, modelfile, sixteen_bits, write_merged, write_quantised
    from repotune.tokens.hf_files import hf_files

    base = work.job.base
    if work.format == "peft":
        for path in work.adapter.iterdir():
            shutil.copyfile(path, folder / path.name)
        if work.job.tokenizer.added_ids:
            for name, data in hf_files(Path(base.path), add_fim=True).items():
                write_durably(folder / name, data)
        return
    wrote = _counted(work)
    if not work.is_gguf:
        write_merged(
            folder, work.merged, base, work.job.tokenizer,
            dtype=sixteen_bits(base, work.merged), wrote=wrote,
        )  # fmt: skip
    else:
        write_quantised(
            folder / work.file, work.merged, work.tokenizer, name=work.name,
            licence=_licence(base), quantisation=work.quantisation, program=work.quantiser,
            wrote=wrote,
        )  # fmt: skip
        if work.format == "ollama":
            text = modelfile(work.file, work.job.tokenizer, work.tokenizer)
            (folder / MODELFILE).write_text(text, encoding="utf-8", newline="\n")
    work.emit(StageDone(stage=WEIGHTS, summary=f"{_disk_bytes(work) / 1e6:,.1f} MB"))


def _counted(work: _Work) -> Callable[[int], None]:
    """Progress of a stage, in bytes written."""
    total = _disk_bytes(work)
    work.emit(StageStarted(stage=WEIGHTS, total=total, unit="bytes"))
    done = 0

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        work.emit(StageProgress(stage=WEIGHTS, done=min(done, total)))

    return wrote


def _check_by_vllm(
    work: _Work, program: Path, folder: Path, target: Path, reading: Reading
) -> tuple[Proof | None, str | None]:
    """As ``_check``; a sentence in the proof's place where vLLM does not start, as on a GPU that
    is busy, since the export may be good all the same."""
    from repotune.export import ask_vllm_once

    work.emit(StageStarted(stage=CHECK))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            proof, other = ask_vllm_once(
                folder, work.job.shape, reading.passages, work.job.tokenizer, program=program,
                scratch=Path(scratch),
            )  # fmt: skip
    except NotServed as error:
        work.emit(StageDone(stage=CHECK, summary="vLLM did not read it"))
        # Not in the card, which others may read: a log has paths of this computer.
        said = error.said.replace(str(folder), str(target))  # where it will be
        _notice(work, f"vLLM is there and did not read the export; it said: {said}")
        return None, NOT_STARTED
    _notice(work, other)
    return _proved(work, proof), None


def _check(work: _Work, folder: Path, reading: Reading) -> Proof:
    """What the other side computes. Raises ExportError if that is something else."""
    from repotune.export import ask_llama_cpp, ask_transformers, why_other_tokens

    work.emit(StageStarted(stage=CHECK))
    passages, dtype = reading.passages, reading.dtype
    if work.is_gguf:
        with tempfile.TemporaryDirectory() as scratch:
            proof = ask_llama_cpp(
                folder / work.file, passages, work.job.tokenizer, work.tokenizer,
                quantisation=work.quantisation, dtype=dtype, scratch=Path(scratch),
            )  # fmt: skip
    elif work.format == "peft":
        base = Path(work.job.base.path)
        proof = ask_transformers(base, passages, dtype=dtype, adapter=folder)
    else:
        proof = ask_transformers(folder, passages, dtype=dtype)
        _notice(work, why_other_tokens(folder, work.job.tokenizer))
    return _proved(work, proof)


def _proved(work: _Work, proof: Proof) -> Proof:
    from repotune.export import refuse_drift

    gc.collect()  # Windows renames no folder of which a file is still mapped
    refuse_drift(proof)
    work.emit(StageDone(stage=CHECK, summary=f"{proof.by}: logits differ by {proof.drift:.2%}"))
    return proof


def _notice(work: _Work, sentence: str | None) -> None:
    if sentence is not None:
        work.emit(Notice(message=sentence))


def _write_card(folder: Path, facts: CardFacts) -> None:
    from repotune.export.card import CARD, model_card

    (folder / CARD).write_text(model_card(facts), encoding="utf-8", newline="\n")


def _card_facts(work: _Work) -> CardFacts:
    from repotune.corpus import read_summary
    from repotune.evaluation import read_evaluation
    from repotune.export.card import CardFacts
    from repotune.export.peft import STARTER_HUB_ID
    from repotune.job import CPU_MODEL
    from repotune.tokens import token_names

    run, job = work.run, work.job
    base, fim = job.base, job.tokenizer.fim
    names = token_names(Path(base.path), add_fim=job.add_fim)
    training = run.state().facts.get("training", {})
    # Of another step than the exported one no figures are known.
    is_judged = run.evaluation.exists() and work.step in (None, training.get("best_step"))
    shown = STARTER_HUB_ID if base.name == CPU_MODEL else base.name
    return CardFacts(
        name=work.name,
        base=shown if base.revision or base.name == CPU_MODEL else Path(base.path).name,
        revision=base.revision,
        licence=_licence(base),
        format=work.format,
        quantisation=work.quantisation if work.is_gguf else None,
        lora=job.lora,
        steps=work.step or training.get("steps"),
        corpus=read_summary(run.corpus) if run.corpus.exists() else None,
        evaluation=read_evaluation(run.evaluation) if is_judged else None,
        fim=fim.text(names, "{code before the cursor}", "{code after it}") if fim else None,
        stops=tuple(names[number] for number in sorted(job.tokenizer.stop_ids)),
        command=_command(work, work.name),
        proof=None,
        unchecked=(),
    )


def _licence(base: ModelRef) -> str | None:
    """The base's licence as the hub tags it, or as its GGUF file says."""
    from repotune.gguf_file import open_gguf
    from repotune.tables import known_model

    known = known_model(base.name)
    if known is not None:
        return known.licence
    if Path(base.path).is_dir():
        return None
    stated = open_gguf(Path(base.path)).metadata.get("general.license")
    return stated if isinstance(stated, str) else None


def _command(work: _Work, folder: str) -> str:
    """What to type, with the folder at the path ``folder``."""
    place = f'"{folder}"' if " " in folder else folder
    match work.format:
        case "peft":
            load = f"PeftModel.from_pretrained(base, {folder!r})"
            if not work.job.tokenizer.added_ids:
                return load
            return f"base.resize_token_embeddings({work.job.shape.vocab_size}); {load}"
        case "merged":
            return f"AutoModelForCausalLM.from_pretrained({folder!r})"
        case "gguf":
            return f"llama-server -m {place}/{work.file}"
        case "ollama":
            return f"ollama create {work.name} -f {place}/Modelfile"
        case _:
            # By itself vLLM listens on all of the machine's addresses, without asking for a key.
            # And a base's own defaults, such as a repetition penalty, are for its chats.
            return (
                f"vllm serve {place} --served-model-name {work.name} --host 127.0.0.1 "
                "--generation-config vllm"
            )


def _disk_bytes(work: _Work) -> int:
    """What the export takes at most while it is written."""
    from repotune.export import merged_bytes, model_bytes

    if work.format == "peft":
        return sum(path.stat().st_size for path in work.adapter.iterdir())
    if not work.is_gguf:
        return merged_bytes(work.job.shape)
    before = model_bytes(work.job.shape, "f16") if work.quantiser is not None else 0
    return before + model_bytes(work.job.shape, work.quantisation)


def _refuse_no_memory(work: _Work) -> None:
    """Raises DoesNotFit if the largest tensor cannot be merged in the memory that is free."""
    from repotune.model import tensor_shapes

    free = work.job.machine.ram_free_bytes
    largest = max(prod(size) for size in tensor_shapes(work.job.shape).values())
    need = ONE_TENSOR_BYTES * largest
    if work.format != "peft" and need > free:
        raise DoesNotFit(
            f"Merging the largest tensor takes {need / 2**30:.1f} GiB of memory and "
            f"{free / 2**30:.1f} GiB is free: close other programs and export again."
        )
