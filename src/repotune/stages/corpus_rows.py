"""From the tree to rows; built once, whole, and found again by a resumed run."""

from __future__ import annotations

from repotune.corpus import build_corpus, read_documents
from repotune.events import Emit
from repotune.job import Job
from repotune.runs import RunFolder
from repotune.tokens import RowStore, build_rows


def prepare_rows(folder: RunFolder, job: Job, emit: Emit) -> RowStore:
    """The rows in ``folder``, which are made if they are not there.

    Raises CorpusError, and RunError or DiskFull where they cannot be written or are damaged.
    """
    config = job.config
    if folder.corpus.exists():
        folder.check_digests(folder.corpus)
    else:
        build_corpus(
            job.tree,
            folder.corpus,
            heldout_share=config.heldout_share,
            seed=config.seed,
            keep_vendored=config.keep_vendored,
            exclude=(folder.path,),
            canaries=config.memorisation_canaries,
            emit=emit,
        )
        folder.record_digests(folder.corpus)
    if folder.tokens.exists():
        folder.check_digests(folder.tokens)
    else:
        build_rows(
            read_documents(folder.corpus, "train"),
            job.tokenizer,
            folder.tokens,
            max_seq_length=config.max_seq_length,
            fim_rate=config.fim_rate,
            seed=config.seed,
            emit=emit,
        )
        folder.record_digests(folder.tokens)
    return RowStore(folder.tokens)
