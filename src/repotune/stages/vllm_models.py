"""The run's models as folders for vLLM: made once, served, and proved by the server itself."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, suppress
from dataclasses import asdict
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
from repotune.stages.reading import read_fixed_code, why_not_read
from repotune.vllm import VllmServer

LOAD: Final = "load"


def vllm_model(
    run: RunFolder, job: Job, program: Path, *, kind: str, name: str, adapter: Path | None,
    context: int, slots: int, scratch: Path, emit: Emit,
) -> tuple[ProvedModel, VllmServer]:  # fmt: skip
    """Base and ``adapter`` (None: the base alone) served by vLLM, the merged folder made unless it
    is there.

    ``kind`` is in the folder's name: another one of that kind gives way to it. ``name`` is the
    model's in requests. The server is the caller's to close. Raises DiskFull or RunError where the
    folder cannot be written, ExportError where vLLM does not serve it, or computes something else
    than our decoder.
    """
    path = _folder(run, job, kind, adapter, emit)
    emit(StageStarted(stage=LOAD))
    server = VllmServer(
        program, path, name=name, context=context, slots=slots,
        cached_token_bytes=job.shape.cached_token_bytes, compiled=job.machine.gpu is not None,
        scratch=scratch,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.push(server)
        emit(StageDone(stage=LOAD, summary=f"{name}: {path.name}"))
        proof = known_proof(path)
        reading = None if proof else read_fixed_code(job, adapter)
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
