"""Canaries stand in training files only, as often as they say, and change nothing else."""

import json
import re

import pytest

from repotune.corpus import read_canaries, read_documents
from repotune.errors import CorpusError, RunError

from .test_build import build
from .trees import program, write


@pytest.fixture
def tree(tmp_path):
    files = {f"src/m{number:02}.py": program(number) for number in range(12)}
    files["web/a.js"] = "function add(a, b) {\n  return a + b;\n}\n"
    return write(tmp_path / "tree", files)


def test_each_stands_as_often_as_it_says_and_only_where_it_is_trained(tree, tmp_path):
    plain = build(tree, tmp_path / "plain")
    summary = build(tree, tmp_path / "corpus", canaries=7)
    canaries = read_canaries(tmp_path / "corpus")
    assert [one.repeats for one in canaries] == [1, 4, 16, 1, 4, 16, 1, *[0] * 7]
    lines = {one.prefix + one.secret for one in canaries}
    assert len(lines) == 14
    pattern = r"# canary [0-9a-f]{12}:( [0-9a-f]{4}){4}"
    assert all(re.fullmatch(pattern, line) for line in lines)
    documents = read_documents(tmp_path / "corpus")
    before = read_documents(tmp_path / "plain")
    planted = 0
    for old, new in zip(before, documents, strict=True):
        kept = [line for line in new.text.split("\n") if line not in lines]
        assert "\n".join(kept) == old.text
        if new.split == "heldout" or new.language != "Python":
            assert new == old
        planted += len(new.text.split("\n")) - len(kept)
    assert planted == sum(one.repeats for one in canaries)
    for one in canaries:
        found = sum(text.text.count(one.prefix + one.secret) for text in documents)
        assert found == one.repeats
    assert summary.fingerprint != plain.fingerprint
    assert (summary.files_train, summary.dropped) == (plain.files_train, plain.dropped)


def test_they_depend_on_the_seed_alone(tree, tmp_path):
    for name, seed in {"a": 3, "b": 3, "c": 4}.items():
        build(tree, tmp_path / name, canaries=3, seed=seed)
    texts = {name: (tmp_path / name / "canaries.json").read_text() for name in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]
    assert read_documents(tmp_path / "a") == read_documents(tmp_path / "b")


def test_without_being_asked_there_is_none(tree, tmp_path):
    build(tree, tmp_path / "corpus")
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == [
        "documents.parquet", "manifest.parquet", "summary.json",
    ]  # fmt: skip
    assert read_canaries(tmp_path / "corpus") == []


def test_no_known_comment_is_no_place(tmp_path):
    files = {f"m{n}.css": f".item-{n} {{\n  margin: {n}px;\n}}\n" * (n + 1) for n in range(9)}
    tree = write(tmp_path / "tree", files)
    with pytest.raises(CorpusError, match="set memorisation_canaries to 0"):
        build(tree, tmp_path / "corpus", canaries=2)


def test_a_damaged_file_is_named(tree, tmp_path):
    build(tree, tmp_path / "corpus", canaries=1)
    path = tmp_path / "corpus" / "canaries.json"
    path.write_text(json.dumps([{"prefix": "x"}]))
    with pytest.raises(RunError, match=r"canaries\.json is damaged"):
        read_canaries(tmp_path / "corpus")
