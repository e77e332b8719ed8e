"""The run's models as folders for vLLM: made once, served, and proved by the server itself."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from repotune.durable import sync_folder, write_durably, writing
from repotune.events import Emit, StageDone, StageProgress, StageStarted
from repotune.export import (
    MergedWeights,
    adapter_shapes,
    ask_vllm,
    merged_bytes,
    read_adapter,
    refuse_drift,
    sixteen_bits,
    write_merged,
)
from repotune.export.fresh import refuse_no_room
from repotune.job import Job
from repotune.records import Proof
from repotune.runs import RunFolder
from repotune.stages.gguf_files import (
    CHECK,
    FILES,
    ProvedModel,
    digest,
    known_proof,
    proof_path,
    unfinished,
)
from repotune.stages.reading import Reading, read_fixed_code, why_not_read
from repotune.vllm import VllmServer

LOAD: Final = "load"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmFolder:
    """A model that vLLM can be given."""

    path: Path
    proof: Proof | None
    """From before, when it was served and compared."""
    reading: Reading | None
    """What it has to be compared with where there is no proof; None: too little memory is free."""


def vllm_folder(
    run: RunFolder, job: Job, *, kind: str, adapter: Path | None, emit: Emit
) -> VllmFolder:
    """Base and ``adapter`` (None: the base alone) merged, unless that is there, and read by our
    decoder where there is no proof yet: before any server takes the memory that this needs.

    ``kind`` is in the folder's name: another one of that kind gives way to it. Raises DiskFull or
    RunError where the folder cannot be written.
    """
    path = _folder(run, job, kind, adapter, emit)
    proof = known_proof(path)
    reading = None if proof else read_fixed_code(job, adapter)
    return VllmFolder(path=path, proof=proof, reading=reading)


def served_by_vllm(
    folder: VllmFolder, job: Job, program: Path, *, name: str, context: int, slots: int,
    compiled: bool, scratch: Path, emit: Emit,
) -> tuple[ProvedModel, VllmServer]:  # fmt: skip
    """The model in ``folder`` served by vLLM, as ``VllmServer`` says, and proved by that server.

    ``name`` is the model's in requests. The server is the caller's to close. Raises ExportError
    where vLLM does not serve it, or computes something else than our decoder.
    """
    path, proof, reading = folder.path, folder.proof, folder.reading
    emit(StageStarted(stage=LOAD))
    server = VllmServer(
        program, path, name=name, context=context, slots=slots,
        cached_token_bytes=job.shape.cached_token_bytes, compiled=compiled, scratch=scratch,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.push(server)
        emit(StageDone(stage=LOAD, summary=f"{name}: {path.name}"))
        if reading is not None:
            emit(StageStarted(stage=CHECK))
            proof = ask_vllm(server, name, reading.passages)
            refuse_drift(proof)
            with writing(path, then="serve again"):
                write_durably(proof_path(path), json.dumps(asdict(proof)).encode())
            emit(StageDone(stage=CHECK, summary=f"logits differ by {proof.drift:.2%}"))
        stack.pop_all()
    why_not = None if proof else why_not_read(job, "serve again")
    return ProvedModel(path=path, proof=proof, why_not=why_not), server


def _folder(run: RunFolder, job: Job, kind: str, adapter: Path | None, emit: Emit) -> Path:
    """What vLLM loads, in Hugging Face layout."""
    folder, name = run.path / "serve", f"{kind}-vllm"
    path = folder / f"{name}-{digest(job, {}, adapter)}"
    if path.exists():
        return path
    total = merged_bytes(job.shape)
    refuse_no_room(folder, total, "serve by llama.cpp, in fewer bits")
    with writing(folder, then="serve again"):
        with unfinished(folder) as scratch:
            made = scratch / path.name
            made.mkdir()
            _write(made, job, adapter, total, emit)
            sync_folder(made)
            made.replace(path)
        sync_folder(folder)
    for old in folder.glob(f"{name}-*"):
        if old not in (path, proof_path(path)):
            shutil.rmtree(old, ignore_errors=True)
            with suppress(OSError):
                old.unlink()
    return path


def _write(folder: Path, job: Job, adapter: Path | None, total: int, emit: Emit) -> None:
    """Merged by the export's code."""
    matrices = {}
    if adapter is not None:
        matrices = read_adapter(adapter, adapter_shapes(job.shape, job.lora), lora=job.lora)
    source, done = MergedWeights(job.weights(), matrices, lora=job.lora), 0

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        emit(StageProgress(stage=FILES, done=min(done, total)))

    emit(StageStarted(stage=FILES, total=total, unit="bytes"))
    write_merged(
        folder, source, job.base, job.tokenizer, dtype=sixteen_bits(job.base, source), wrote=wrote
    )
    emit(StageDone(stage=FILES, summary=f"{folder.name}, {total / 1e6:,.1f} MB"))
