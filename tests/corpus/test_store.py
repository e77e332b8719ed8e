"""The corpus on disk: whole or not there."""

import errno
import os

import pyarrow.parquet as pq
import pytest

from repotune.corpus.manifest import FileLine
from repotune.corpus.store import (
    read_documents,
    read_manifest,
    read_summary,
    write_corpus,
)
from repotune.durable import partial_of
from repotune.errors import DiskFull, RunError
from repotune.records import CorpusSummary, Document

DOCUMENTS = [
    Document(
        path=f"{number:04}.py", language="Python", text=f"x = '한글 {number}'\n", sha256="0" * 64,
        cluster=number, split="heldout" if number % 10 == 3 else "train", encoding="cp949",
        licence="MIT" if number % 2 else None,
    )
    for number in range(600)
]  # fmt: skip
LINES = [
    FileLine(path="a.py", reason=None, size_bytes=5 << 30, cluster=7, split="train", secrets=2),
    FileLine(path="b/", reason="cache"),
    FileLine(path="c.py", reason="long lines", detail="a line of 2000 characters", vendored=True),
]
SUMMARY = CorpusSummary(
    files_seen=3, files_kept=1, files_train=1, files_heldout=0, bytes_kept=9,
    dropped={"cache": 1, "long lines": 1}, languages={"Python": 1}, secrets_replaced={},
    fingerprint="f",
)  # fmt: skip


def test_what_is_written_is_read_again(tmp_path) -> None:
    folder = tmp_path / "run" / "corpus"
    write_corpus(folder, LINES, DOCUMENTS, SUMMARY, [])
    assert read_documents(folder) == DOCUMENTS
    assert read_documents(folder, "heldout") == DOCUMENTS[3::10]
    assert len(read_documents(folder, "train")) == 540
    assert read_manifest(folder) == LINES
    assert read_summary(folder) == SUMMARY
    assert sorted(path.name for path in folder.iterdir()) == [
        "documents.parquet", "manifest.parquet", "summary.json",
    ]  # fmt: skip
    assert list(folder.parent.iterdir()) == [folder]


def test_others_read_the_files_in_pieces(tmp_path) -> None:
    write_corpus(tmp_path / "corpus", LINES, DOCUMENTS, SUMMARY, [])
    with pq.ParquetFile(tmp_path / "corpus" / "documents.parquet") as file:
        assert file.num_row_groups == 3
        assert file.schema_arrow.names[:3] == ["path", "language", "text"]


def test_what_a_killed_process_left_is_cleared(tmp_path) -> None:
    folder = tmp_path / "corpus"
    partial_of(folder).mkdir()
    (partial_of(folder) / "rest").write_text("x")
    write_corpus(folder, LINES, DOCUMENTS, SUMMARY, [])
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, RunError)])
def test_a_disk_that_refuses_is_one_sentence_and_leaves_nothing(
    number, kind, tmp_path, monkeypatch
) -> None:
    calls = []

    def refuse(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match=r"corpus cannot be written.*--resume"):
        write_corpus(tmp_path / "corpus", LINES, DOCUMENTS, SUMMARY, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["documents.parquet", "manifest.parquet", "summary.json"])
def test_a_file_that_is_damaged_or_missing_is_named(name, tmp_path) -> None:
    folder = tmp_path / "corpus"
    write_corpus(folder, LINES, DOCUMENTS, SUMMARY, [])
    path = folder / name
    whole = path.read_bytes()
    read = {"d": read_documents, "m": read_manifest, "s": read_summary}[name[0]]
    for content in (b"", whole[: len(whole) // 2], b"PAR1" + b"\0" * 50 + b"PAR1", b"[]", b"{}"):
        path.write_bytes(content)
        with pytest.raises(RunError, match=rf"{name} is damaged: start a new run"):
            read(folder)
    path.unlink()
    with pytest.raises(RunError, match=rf"{name} is missing: start a new run"):
        read(folder)
