"""Rows on disk: raw token ids, where documents begin, and what it all adds up to.

    ids-000.bin …    token ids, ``uint16`` or ``uint32``, little-endian, ``max_seq_length`` a row
    rows.parquet     one line per row: shard, offset (rows), used (tokens before the padding),
                     starts, paths and fim of the documents in it
    tokens.json      version, settings, RowsSummary

Labels are not stored: they are the ids moved by one, without loss where a document ends. The only
file of this room that knows Parquet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from repotune.durable import sync_file, whole_folder, write_durably
from repotune.errors import RunError
from repotune.records import IGNORE, IntArray, Row, RowsSummary
from repotune.tokens.pieces import Piece

VERSION: Final = 2
"""Raise it whenever the same documents become other rows, or the files look different."""
ROWS: Final = "rows.parquet"
TOKENS: Final = "tokens.json"
SHARD_TOKENS: Final = 1 << 26
"""At most so many ids in a file: 128 or 256 MiB."""

_SCHEMA: Final = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int32(), nullable=False),
        pa.field("used", pa.int32(), nullable=False),
        pa.field("starts", pa.list_(pa.int32()), nullable=False),
        pa.field("paths", pa.list_(pa.string()), nullable=False),
        pa.field("fim", pa.list_(pa.bool_()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How rows are written."""

    max_seq_length: int
    dtype: str
    """``<u2`` or ``<u4``."""
    padding_id: int


def layout_for(vocab_size: int, max_seq_length: int, padding_id: int) -> Layout:
    """Two bytes per id where the vocabulary allows it."""
    dtype = "<u2" if vocab_size <= 65_535 else "<u4"
    return Layout(max_seq_length=max_seq_length, dtype=dtype, padding_id=padding_id)


def write_rows(
    folder: Path,
    rows: Sequence[Sequence[Piece]],
    layout: Layout,
    summary: RowsSummary,
    settings: dict[str, Any],
    *,
    shard_tokens: int = SHARD_TOKENS,
) -> RowsSummary:
    """Write the files and make ``folder`` of them by one rename; it must not exist yet.

    The summary comes back with its fingerprint: SHA-256 over version, layout, settings, ids and
    starts. Raises DiskFull or RunError if the disk does not take the rows; nothing is left then.
    """
    with whole_folder(folder) as partial:
        header = {"version": VERSION, **asdict(layout), "settings": settings}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        rows_per_shard = max(1, shard_tokens // layout.max_seq_length)
        lines, shards = _write_shards(partial, rows, layout, rows_per_shard, digest)
        digest.update(json.dumps([line["starts"] for line in lines]).encode())
        summary = replace(summary, fingerprint=digest.hexdigest())
        table = pa.Table.from_pylist(lines, schema=_SCHEMA)
        pq.write_table(table, partial / ROWS, compression="zstd")
        sync_file(partial / ROWS)
        content = {**header, "shards": shards, "summary": asdict(summary)}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_durably(partial / TOKENS, text.encode())
    return summary


def _write_shards(
    folder: Path,
    rows: Sequence[Sequence[Piece]],
    layout: Layout,
    rows_per_shard: int,
    digest: hashlib._Hash,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of ``rows.parquet``, and name and number of rows of each shard."""
    lines: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    rest = iter(rows)
    while some := list(islice(rest, rows_per_shard)):
        name = f"ids-{len(shards):03}.bin"
        with (folder / name).open("wb") as file:
            for offset, pieces in enumerate(some):
                ids = np.concatenate([piece.ids for piece in pieces])
                padded = np.full(layout.max_seq_length, layout.padding_id, layout.dtype)
                padded[: len(ids)] = ids
                digest.update(padded.data)
                file.write(padded.data)
                ends = np.cumsum([len(piece.ids) for piece in pieces])
                # Padding, if any, begins where the last document ends.
                starts = [0, *(int(end) for end in ends if end < layout.max_seq_length)]
                lines.append(
                    {
                        "shard": len(shards),
                        "offset": offset,
                        "used": len(ids),
                        "starts": starts,
                        "paths": [piece.path for piece in pieces],
                        "fim": [piece.fim for piece in pieces],
                    }
                )
        sync_file(folder / name)
        shards.append({"file": name, "rows": len(some)})
    return lines, shards


class RowStore:
    """The rows in a folder, mapped: opening it reads where documents begin, not the ids."""

    def __init__(self, folder: Path) -> None:
        """Raises RunError if the folder is missing, damaged or of another version."""
        self.folder = folder
        with _reading(folder / TOKENS) as path:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise RunError(
                    f"{folder} was written by another version of repotune (format "
                    f"{content['version']}, and {VERSION} can be read): start a new run."
                )
            self.summary = RowsSummary(**content["summary"])
            self._length = int(content["max_seq_length"])
            self._shards = [
                _map(folder / shard["file"], content["dtype"], (shard["rows"], self._length))
                for shard in content["shards"]
            ]
        with _reading(folder / ROWS) as path:
            table = pq.read_table(path, columns=["shard", "offset", "used", "starts"])
            self._shard: IntArray = table["shard"].to_numpy()
            self._offset: IntArray = table["offset"].to_numpy()
            self._used: IntArray = table["used"].to_numpy()
            lists = table["starts"].combine_chunks()
            self._starts: IntArray = lists.values.to_numpy()
            self._starts_at: IntArray = lists.offsets.to_numpy()
            if not len(self._shard) == self.summary.rows == sum(map(len, self._shards)):
                raise ValueError("rows are missing")

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, index: int, /) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        ids = self._shards[self._shard[index]][self._offset[index]].astype(np.int64)
        starts = self._starts[self._starts_at[index] : self._starts_at[index + 1]].astype(np.int64)
        labels = np.full_like(ids, IGNORE)
        used = int(self._used[index])
        labels[: used - 1] = ids[1:used]
        labels[starts[1:] - 1] = IGNORE
        return Row(input_ids=ids, labels=labels, starts=starts)

    def order(self, epoch: int, seed: int) -> IntArray:
        """[rows] a permutation of all row numbers, decided by ``seed`` and ``epoch`` alone."""
        return np.random.default_rng((seed, epoch)).permutation(len(self))


def _map(path: Path, dtype: str, shape: tuple[int, int]) -> npt.NDArray[Any]:
    wanted = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if path.stat().st_size != wanted:
        raise RunError(
            f"{path} has {path.stat().st_size} bytes instead of {wanted}: start a new run."
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn what a missing or damaged file leads to into an error that names it."""
    try:
        yield path
    except FileNotFoundError as error:
        raise RunError(f"{error.filename or path} is missing: start a new run.") from None
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        raise RunError(f"{path} is damaged: start a new run.") from None
