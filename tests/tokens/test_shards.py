"""The files of the rows: whole or not there, and a sentence for each kind of damage."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from repotune.errors import RunError
from repotune.records import IGNORE, RowsSummary
from repotune.tokens import RowStore
from repotune.tokens.pieces import Piece
from repotune.tokens.shards import layout_for, write_rows

LENGTH = 8


def piece(path, *ids, fim=False):
    return Piece(path=path, place=0, ids=np.array(ids), source_tokens=len(ids), fim=fim)


ROWS = [
    [piece("a.py", 5, 6, 7, 2), piece("b.py", 8, 9, 10, 2, fim=True)],
    [piece("c.py", 11, 12, 2)],
    [piece("d.py", 1, 2, 3, 4, 5, 6, 7, 8)],
]
SUMMARY = RowsSummary(
    rows=3, tokens=19, tokens_kept=1.0, fill=19 / 24, fim_documents=1, set_aside={"x.py": "why"},
    fingerprint="",
)  # fmt: skip


def write(folder, *, vocab_size=32_000, **options):
    layout = layout_for(vocab_size, LENGTH, 2)
    return write_rows(folder, ROWS, layout, SUMMARY, {"seed": 1}, **options)


@pytest.mark.parametrize("vocab_size", [65_535, 65_536])
@pytest.mark.parametrize("shard_tokens", [1, 16, 1000])
def test_rows_come_back(vocab_size, shard_tokens, tmp_path):
    summary = write(tmp_path / "tokens", vocab_size=vocab_size, shard_tokens=shard_tokens)
    store = RowStore(tmp_path / "tokens")
    assert store.summary == summary
    assert len(store) == 3
    first, second, third = (store[number] for number in range(3))
    assert first.input_ids.tolist() == [5, 6, 7, 2, 8, 9, 10, 2]
    assert first.labels.tolist() == [6, 7, 2, IGNORE, 9, 10, 2, IGNORE]
    assert first.starts.tolist() == [0, 4]
    # Padding is a document of its own, without labels.
    assert second.input_ids.tolist() == [11, 12, 2, 2, 2, 2, 2, 2]
    assert second.labels.tolist() == [12, 2] + [IGNORE] * 6
    assert second.starts.tolist() == [0, 3]
    assert third.labels.tolist() == [2, 3, 4, 5, 6, 7, 8, IGNORE]
    assert third.starts.tolist() == [0]
    shards = sorted((tmp_path / "tokens").glob("ids-*.bin"))
    assert len(shards) == {1: 3, 16: 2, 1000: 1}[shard_tokens]
    width = 2 if vocab_size == 65_535 else 4
    assert sum(path.stat().st_size for path in shards) == 3 * LENGTH * width


def test_other_tools_can_read_what_stands_where(tmp_path):
    write(tmp_path / "tokens")
    lines = pq.read_table(tmp_path / "tokens" / "rows.parquet").to_pylist()
    assert lines[0] == {
        "shard": 0, "offset": 0, "used": 8, "starts": [0, 4], "paths": ["a.py", "b.py"],
        "fim": [False, True],
    }  # fmt: skip
    assert (lines[1]["used"], lines[1]["starts"], lines[1]["paths"]) == (3, [0, 3], ["c.py"])
    facts = json.loads((tmp_path / "tokens" / "tokens.json").read_text(encoding="utf-8"))
    assert facts["shards"] == [{"file": "ids-000.bin", "rows": 3}]
    assert facts["summary"]["set_aside"] == {"x.py": "why"}
    ids = np.fromfile(tmp_path / "tokens" / "ids-000.bin", facts["dtype"])
    assert ids.reshape(3, facts["max_seq_length"])[2].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_order_is_a_permutation_that_seed_and_epoch_decide(tmp_path):
    write(tmp_path / "tokens")
    store = RowStore(tmp_path / "tokens")
    orders = {
        (seed, epoch): store.order(epoch, seed).tolist() for seed in range(6) for epoch in range(6)
    }
    assert all(sorted(order) == [0, 1, 2] for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 6
    assert store.order(3, 4).tolist() == orders[4, 3]


def test_a_row_that_is_not_there(tmp_path):
    write(tmp_path / "tokens")
    store = RowStore(tmp_path / "tokens")
    for index in (3, -1):
        with pytest.raises(IndexError):
            store[index]


def test_what_exists_is_not_overwritten_and_nothing_is_left_behind(tmp_path):
    write(tmp_path / "tokens")
    before = (tmp_path / "tokens" / "tokens.json").read_bytes()
    with pytest.raises(RunError, match="tokens cannot be written"):
        write(tmp_path / "tokens", vocab_size=99_999)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
    assert (tmp_path / "tokens" / "tokens.json").read_bytes() == before


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    write(tmp_path / "tokens")
    shutil.move(tmp_path / "tokens", tmp_path / ".tokens.partial")
    (tmp_path / ".tokens.partial" / "rows.parquet").unlink()
    write(tmp_path / "tokens")
    assert len(RowStore(tmp_path / "tokens")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


@pytest.mark.parametrize("name", ["tokens.json", "rows.parquet", "ids-000.bin"])
def test_a_missing_file(name, tmp_path):
    write(tmp_path / "tokens")
    (tmp_path / "tokens" / name).unlink()
    with pytest.raises(RunError, match=rf"{name} is missing: start a new run"):
        RowStore(tmp_path / "tokens")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokens.json", b"{", "tokens.json is damaged"),
        ("tokens.json", b'{"version": 2}', "tokens.json is damaged"),
        ("tokens.json", b'{"version": 99}', r"another version .*format 99, and 2 can be read"),
        ("rows.parquet", b"PAR1", "rows.parquet is damaged"),
        ("ids-000.bin", b"\0" * 47, "has 47 bytes instead of 48"),
        ("ids-000.bin", b"", "has 0 bytes instead of 48"),
    ],
)
def test_a_damaged_file(name, content, message, tmp_path):
    write(tmp_path / "tokens")
    (tmp_path / "tokens" / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        RowStore(tmp_path / "tokens")


def test_the_fingerprint_is_of_what_is_in_the_rows(tmp_path):
    one = write(tmp_path / "one").fingerprint
    assert write(tmp_path / "same").fingerprint == one
    layout = layout_for(32_000, LENGTH, 2)
    other = [ROWS[1], ROWS[0], ROWS[2]]
    assert write_rows(tmp_path / "x", other, layout, SUMMARY, {"seed": 1}).fingerprint != one
    assert write_rows(tmp_path / "y", ROWS, layout, SUMMARY, {"seed": 2}).fingerprint != one
