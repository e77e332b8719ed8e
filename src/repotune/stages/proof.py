"""After the training: the adapter, and what it is worth on held-out files."""

from __future__ import annotations

from repotune.corpus import read_canaries, read_documents
from repotune.errors import RunError
from repotune.evaluation import (
    evaluate,
    measure_forgetting,
    with_forgetting,
    with_memorisation,
    write_evaluation,
)
from repotune.events import Emit
from repotune.export import export_adapter, load_adapter
from repotune.job import Job, load_decoder, settle, without_notices
from repotune.model import Decoder
from repotune.planning import GAP_TOKENS, LINE_TOKENS, ON_CPU, ON_GPU
from repotune.records import Evaluation
from repotune.runs import RunFolder
from repotune.stages.adapters import adapter_folder


def export(folder: RunFolder, job: Job, decoder: Decoder) -> None:
    """Write the decoder's adapter into the run. Raises DiskFull or RunError."""
    export_adapter(folder.adapter, decoder.lora_state(), lora=job.lora, base=job.base)
    folder.record_digests(folder.adapter)


def open_tuned(folder: RunFolder, emit: Emit, step: int | None = None) -> tuple[Job, Decoder]:
    """The base model with the run's adapter, or with that of the kept checkpoint of ``step``.

    Raises RunError if the run has none.
    """
    folder.refuse_no_adapter(step)
    job = settle(folder.state(), without_notices(emit))  # said when the run was trained
    decoder = load_decoder(job, emit)
    with adapter_folder(folder, job, step) as adapter:
        load_adapter(adapter, decoder.lora_state(), lora=job.lora)
    decoder.refresh()
    return job, decoder


def compare(
    folder: RunFolder, job: Job, decoder: Decoder, max_tokens: int | None, *, tasks: bool,
    keep: bool, emit: Emit,
) -> Evaluation:  # fmt: skip
    """Score the held-out files and what was forgotten, base against tuned; ``keep``: and write what
    came out into the run.

    ``tasks``: with HumanEval. ``max_tokens`` goes before the run's own setting. Raises RunError if
    nothing was held out.
    """
    extent = ON_CPU if job.machine.gpu is None else ON_GPU
    documents = read_documents(folder.corpus, "heldout")
    if not documents:
        raise RunError(
            f"{folder.path} held no files out, so there is nothing to compare on: "
            "start a new run with heldout_share above 0."
        )
    found = evaluate(
        decoder,
        job.tokenizer,
        documents,
        training=read_documents(folder.corpus, "train"),
        max_seq_length=job.config.max_seq_length,
        max_tokens=max_tokens or job.config.eval_max_tokens or extent.heldout_tokens,
        max_cursors=extent.cursors,
        max_line_tokens=LINE_TOKENS,
        max_gaps=extent.gaps,
        max_gap_tokens=GAP_TOKENS,
        max_prompt_tokens=extent.prompt_tokens,
        seed=job.config.seed,
        emit=emit,
    )
    forgetting = measure_forgetting(
        decoder,
        job.tokenizer,
        read_documents(folder.corpus, "train"),
        extent=extent,
        tasks=tasks,
        max_seq_length=job.config.max_seq_length,
        max_positions=job.shape.max_position_embeddings,
        workers=job.machine.cores,
        seed=job.config.seed,
        emit=emit,
    )
    evaluation = with_forgetting(found, forgetting)
    canaries = read_canaries(folder.corpus)
    if canaries:
        evaluation = with_memorisation(
            evaluation, decoder, job.tokenizer, canaries,
            max_seq_length=job.config.max_seq_length, emit=emit,
        )  # fmt: skip
    if keep:
        write_evaluation(folder.evaluation, evaluation)
        base, tuned = evaluation.base_bits_per_byte, evaluation.tuned_bits_per_byte
        folder.update(facts={"heldout_bits_per_byte": {"base": base, "tuned": tuned}})
    return evaluation
