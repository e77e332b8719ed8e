"""The run's models as GGUF files for llama.cpp, made once, proved, and kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from repotune.durable import sync_folder, write_durably, writing
from repotune.events import Emit, StageDone, StageProgress, StageStarted
from repotune.export import (
    MergedWeights,
    adapter_shapes,
    ask_llama_cpp,
    find_program,
    model_bytes,
    read_adapter,
    refuse_drift,
    write_quantised,
)
from repotune.export.fresh import refuse_no_room
from repotune.job import Job
from repotune.model import weights_id
from repotune.records import Proof, Quantisation
from repotune.runs import RunFolder
from repotune.stages.reading import read_fixed_code, why_not_read

FILE_VERSION: Final = 2
"""Raised whenever the same weights would give another GGUF file, or another proof."""
FILES, CHECK = "export", "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedModel:
    """A model on disk for another program, and how near that is to our decoder."""

    path: Path
    proof: Proof | None
    why_not: str | None
    """A sentence where there is no proof."""


def gguf_file(
    run: RunFolder, job: Job, tokenizer: Mapping[str, Any], *, kind: str, adapter: Path | None,
    quantisation: Quantisation, emit: Emit,
) -> ProvedModel:  # fmt: skip
    """The GGUF file of base and ``adapter`` (None: of the base alone), made unless it is there.

    ``kind`` is in its name: another one of that kind and quantisation gives way to it.
    ``tokenizer`` is what the file says of it. It is kept only if llama.cpp computes from it what
    our decoder computes. Raises DiskFull or RunError where it cannot be written, ExportError where
    llama.cpp computes something else.
    """
    folder, name = run.path / "serve", f"{kind}-{quantisation.upper()}"
    path = folder / f"{name}-{digest(job, tokenizer, adapter)}.gguf"
    proof = known_proof(path)
    if path.exists() and proof is not None:
        return ProvedModel(path=path, proof=proof, why_not=None)
    program = find_program() if quantisation == "q4_k_m" else None
    by_way = model_bytes(job.shape, "f16") if program is not None else 0
    size = 0 if path.exists() else model_bytes(job.shape, quantisation) + by_way
    refuse_no_room(folder, size, "take fewer bits with --quantisation")
    reading = read_fixed_code(job, adapter)
    with writing(folder, then="serve again"):
        with unfinished(folder) as scratch:
            made = path
            if not path.exists():
                made = scratch / path.name
                _write(made, job, tokenizer, adapter, name, quantisation, program, emit)
            if reading is not None:
                emit(StageStarted(stage=CHECK))
                proof = ask_llama_cpp(
                    made, reading.passages, job.tokenizer, tokenizer, quantisation=quantisation,
                    dtype=reading.dtype, scratch=scratch,
                )  # fmt: skip
                refuse_drift(proof)
                write_durably(proof_path(path), json.dumps(asdict(proof)).encode())
                emit(StageDone(stage=CHECK, summary=f"logits differ by {proof.drift:.2%}"))
            if made != path:
                made.replace(path)
        sync_folder(folder)
    for old in folder.glob(f"{name}-*"):
        if old not in (path, proof_path(path)):
            with suppress(OSError):  # Windows keeps a file that another server has open
                old.unlink()
    why_not = None if proof else why_not_read(job, "serve again")
    return ProvedModel(path=path, proof=proof, why_not=why_not)


def _write(
    path: Path, job: Job, tokenizer: Mapping[str, Any], adapter: Path | None, name: str,
    quantisation: Quantisation, program: Path | None, emit: Emit,
) -> None:  # fmt: skip
    """Merged and quantised by the export's code."""
    matrices = {}
    if adapter is not None:
        matrices = read_adapter(adapter, adapter_shapes(job.shape, job.lora), lora=job.lora)
    source = MergedWeights(job.weights(), matrices, lora=job.lora)
    size = model_bytes(job.shape, quantisation)
    total, done = size if program is None else model_bytes(job.shape, "f16"), 0

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        emit(StageProgress(stage=FILES, done=min(done, total)))

    emit(StageStarted(stage=FILES, total=total, unit="bytes"))
    write_quantised(
        path, source, tokenizer, name=name.lower(), licence=None, quantisation=quantisation,
        program=program, wrote=wrote,
    )  # fmt: skip
    emit(StageDone(stage=FILES, summary=f"{path.name}, {size / 1e6:,.1f} MB"))


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A folder within ``folder``, which is made, for what is moved out of it when it is whole."""
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".partial-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
        yield Path(scratch)


def proof_path(path: Path) -> Path:
    """Where the proof of a served model lies."""
    return path.with_suffix(".proof.json")


def known_proof(path: Path) -> Proof | None:
    """What was written beside the file when it was made; None if it was not, or is damaged."""
    try:
        return Proof(**json.loads(proof_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def digest(job: Job, tokenizer: Mapping[str, Any], adapter: Path | None) -> str:
    """Of all that a served model is made of; ``tokenizer`` is what a GGUF file says of it."""
    made_of = hashlib.sha256()
    facts = [FILE_VERSION, weights_id(job.base), tokenizer]
    if adapter is not None:
        facts += [job.lora.scale]
        for path in sorted(adapter.iterdir()):
            made_of.update(path.name.encode() + path.read_bytes())
    made_of.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return made_of.hexdigest()[:16]
