"""From documents to rows on disk and back."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from repotune.errors import CorpusError
from repotune.events import StageDone, StageProgress, StageStarted, ignore
from repotune.records import IGNORE
from repotune.tokens import RowStore, build_rows
from repotune.tokens.shards import VERSION

from .vocabularies import document, random_text, sample_code

DOCUMENTS = [document(f"json/{number}.py", text) for number, text in enumerate(sample_code())]


def build(documents, tokenizer, folder, *, length=128, rate=0.5, seed=0, emit=ignore):
    build_rows(
        documents, tokenizer, folder, max_seq_length=length, fim_rate=rate, seed=seed, emit=emit
    )
    return RowStore(folder)


def stretches(store):
    """(ids, labels) of every document in every row, padding included."""
    for number in range(len(store)):
        row = store[number]
        ends = [*row.starts[1:], len(row.input_ids)]
        for start, end in zip(row.starts, ends, strict=True):
            yield row.input_ids[start:end], row.labels[start:end]


def test_each_label_is_the_next_token_of_the_same_document(codellama, tmp_path):
    store = build(DOCUMENTS, codellama, tmp_path / "tokens")
    tokens = 0
    for ids, labels in stretches(store):
        assert len(ids) == len(labels) > 0
        assert labels[-1] == IGNORE
        if len(ids) > 1 and (labels == IGNORE).all():  # padding
            assert set(ids.tolist()) == {codellama.eos_id}
            continue
        if ids[0] == codellama.bos_id:
            assert np.array_equal(labels[:-1], ids[1:])
            tokens += len(ids)
    assert tokens == store.summary.tokens
    for number in range(len(store)):
        row = store[number]
        assert len(row.input_ids) == len(row.labels) == 128
        assert row.starts[0] == 0
        assert (np.diff(row.starts) > 0).all()


@pytest.mark.parametrize("which", ["starter", "codellama"])
def test_the_end_of_each_document_is_a_label_once(which, starter, codellama, tmp_path):
    tokenizer = {"starter": starter, "codellama": codellama}[which]
    documents = [document(f"{n}.py", random_text(n).replace("▁", "")) for n in range(30)]
    store = build(documents, tokenizer, tmp_path / "tokens", rate=0.0)
    labels = np.concatenate([labels for _, labels in stretches(store)])
    assert (labels == tokenizer.eos_id).sum() == 30


def test_every_token_is_kept_and_counted(starter, tmp_path):
    store = build(DOCUMENTS, starter, tmp_path / "tokens")
    summary = store.summary
    assert summary.tokens_kept == 1.0
    assert summary.rows == len(store)
    source = sum(len(starter.encode(one.text)) for one in DOCUMENTS)
    assert summary.tokens == source + len(DOCUMENTS)  # no BOS, one EOS each
    assert summary.fill == pytest.approx(summary.tokens / (128 * len(store)))
    assert summary.fim_documents == 0
    found = [ids for ids, labels in stretches(store) if (labels != IGNORE).any()]
    text = "".join(sorted(starter.decode(ids, continuation=True) for ids in found))
    assert sorted(text) == sorted("".join(one.text for one in DOCUMENTS))


@pytest.mark.parametrize("length", [512, 2048])
def test_rows_of_real_code_are_full(length, codellama, tmp_path):
    paths = sorted(Path(asyncio.__file__).parents[1].glob("*.py"))[:70]
    documents = [document(path.name, path.read_text(encoding="utf-8")) for path in paths]
    store = build(documents, codellama, tmp_path / "tokens", length=length)
    assert store.summary.fill >= 0.98
    assert store.summary.tokens_kept == 1.0


def test_set_aside_documents_count_as_lost(codellama, tmp_path):
    bad = document("bar.py", "bar = '\u2581'\n")
    summary = build([bad, *DOCUMENTS], codellama, tmp_path / "tokens").summary
    lost = len(codellama.encode(bad.text))
    kept = sum(len(codellama.encode(one.text)) for one in DOCUMENTS)
    assert summary.tokens_kept == pytest.approx(kept / (kept + lost))
    assert list(summary.set_aside) == ["bar.py"]


def test_nothing_to_learn_from(codellama, tmp_path):
    with pytest.raises(CorpusError, match="None of 0 training files"):
        build([], codellama, tmp_path / "tokens")
    with pytest.raises(CorpusError, match=r"None of 1 training files .*U\+2581"):
        build([document("a", "\u2581")], codellama, tmp_path / "tokens")
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_documents_changes_nothing_and_the_seed_does(codellama, tmp_path):
    one = build(DOCUMENTS, codellama, tmp_path / "one")
    other = build(iter(DOCUMENTS[::-1]), codellama, tmp_path / "other")
    third = build(DOCUMENTS, codellama, tmp_path / "third", seed=1)
    assert one.summary == other.summary
    assert one.summary.fingerprint != third.summary.fingerprint
    for name in ("ids-000.bin", "tokens.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_rows_are_those_of_this_version(codellama, tmp_path):
    """When this fails, the same documents become other rows: raise VERSION, then update it."""
    documents = [
        document(f"{number}.py", f"def f{number}(x):\n    return x + {number}\n" * (number + 1))
        for number in range(12)
    ]
    store = build(documents, codellama, tmp_path / "tokens", length=64)
    assert (VERSION, store.summary.fingerprint[:16]) == (2, "9c09e02208f611f1")


def test_progress_is_told(codellama, tmp_path):
    events = []
    build(DOCUMENTS, codellama, tmp_path / "tokens", emit=events.append)
    total = len(DOCUMENTS)
    assert events[0] == StageStarted(stage="tokens", total=total, unit="files")
    assert events[-2] == StageProgress(stage="tokens", done=total)
    assert isinstance(events[-1], StageDone)
    assert "pieces as fill in the middle" in events[-1].summary
