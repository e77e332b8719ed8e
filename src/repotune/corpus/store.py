"""The corpus on disk: two Parquet files, a summary, and canaries where they were asked for.

The only file that knows Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from repotune.corpus.manifest import FileLine
from repotune.durable import sync_file, whole_folder, write_durably
from repotune.errors import RunError
from repotune.records import Canary, CorpusSummary, Document, Split

MANIFEST = "manifest.parquet"
DOCUMENTS = "documents.parquet"
SUMMARY = "summary.json"
CANARIES = "canaries.json"

_MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("encoding", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("vendored", pa.bool_(), nullable=False),
        pa.field("secrets", pa.int32(), nullable=False),
        pa.field("cluster", pa.int32()),
        pa.field("split", pa.string()),
    ]
)
_DOCUMENTS_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("encoding", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
    ]
)
_DOCUMENTS_AT_ONCE = 256
"""A row group: what is in memory at a time while documents are written or read."""
_LINES_AT_ONCE = 1 << 16


def write_corpus(
    folder: Path,
    lines: Sequence[FileLine],
    documents: Sequence[Document],
    summary: CorpusSummary,
    canaries: Sequence[Canary],
) -> None:
    """Write the files and make ``folder`` of them by one rename; it must not exist yet.

    Raises DiskFull or RunError if the disk does not take them; then nothing is left of them.
    """
    with whole_folder(folder) as partial:
        _write_table(partial / MANIFEST, _MANIFEST_SCHEMA, lines, _LINES_AT_ONCE)
        _write_table(partial / DOCUMENTS, _DOCUMENTS_SCHEMA, documents, _DOCUMENTS_AT_ONCE)
        text = json.dumps(asdict(summary), indent=2, ensure_ascii=False) + "\n"
        write_durably(partial / SUMMARY, text.encode())
        if canaries:
            text = json.dumps([asdict(one) for one in canaries], indent=2) + "\n"
            write_durably(partial / CANARIES, text.encode())


def read_documents(folder: Path, split: Split | None = None) -> list[Document]:
    """The documents of the corpus in ``folder``, ordered by path; of one split or of both.

    Raises RunError if they are missing or damaged.
    """
    with _reading(folder / DOCUMENTS) as path, pq.ParquetFile(path) as file:
        return [
            Document(**row)
            for batch in file.iter_batches(_DOCUMENTS_AT_ONCE)
            for row in batch.to_pylist()
            if split is None or row["split"] == split
        ]


def read_manifest(folder: Path) -> list[FileLine]:
    """What became of each file, ordered by path. Raises RunError if it is missing or damaged."""
    with _reading(folder / MANIFEST) as path:
        return [FileLine(**row) for row in pq.read_table(path).to_pylist()]


def read_summary(folder: Path) -> CorpusSummary:
    """The summary of the corpus in ``folder``. Raises RunError if it is missing or damaged."""
    with _reading(folder / SUMMARY) as path:
        return CorpusSummary(**json.loads(path.read_text(encoding="utf-8")))


def read_canaries(folder: Path) -> list[Canary]:
    """The canaries of the corpus in ``folder`` and their controls; empty if it was built without.

    Raises RunError if the file is damaged.
    """
    if not (folder / CANARIES).exists():
        return []
    with _reading(folder / CANARIES) as path:
        return [Canary(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def _write_table(
    path: Path, schema: pa.Schema, records: Iterable[FileLine | Document], at_once: int
) -> None:
    # Statistics would hold the first and the last text once more.
    with (
        path.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_statistics=False) as writer,
    ):
        rest = iter(records)
        while rows := [asdict(one) for one in islice(rest, at_once)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    sync_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn what a missing or damaged file leads to into an error that names it."""
    try:
        yield path
    except FileNotFoundError:
        raise RunError(f"{path} is missing: start a new run.") from None
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        raise RunError(f"{path} is damaged: start a new run.") from None
