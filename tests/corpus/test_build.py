"""The whole stage on real trees: complete, clean, split fairly, the same every time."""

import os
import random
import sysconfig
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from datasketch import MinHash, MinHashLSH

from repotune.corpus import build_corpus, read_documents, read_summary
from repotune.corpus.store import read_manifest
from repotune.corpus.walk import MAX_FILE_BYTES
from repotune.durable import partial_of
from repotune.errors import CorpusError
from repotune.events import StageDone, StageProgress, StageStarted, ignore

from .planted import planted
from .trees import CODE, program, write

STDLIB = Path(sysconfig.get_path("stdlib"))


def build(root, folder, **changes):
    settings = {"heldout_share": 0.2, "seed": 0, "keep_vendored": False, "exclude": ()}
    return build_corpus(root, folder, emit=ignore, **{"canaries": 0, **settings, **changes})


def programs(count):
    return {f"src/m{number:02}.py": program(number) for number in range(count)}


def mixed_tree(root):
    return write(
        root,
        {
            **programs(12),
            "copy/m00.py": program(0),
            "copy/crlf.py": program(1).replace("\n", "\r\n"),
            "copy/near.py": program(2) + "more = 1\n",
            "korean.py": f"# 두 수를 더한다\n{program(20)}".encode("cp949"),
            "wide.py": program(21).encode("utf-16"),
            ".gitignore": "ignored.py\n",
            "ignored.py": program(30),
            "vendor/x.py": program(31),
            "picture.png": b"\x89PNG\r\n\0",
            "null.py": b"x = 1\n\0",
            "empty.py": b"",
            "long.py": "x = '" + "word " * 300 + "'\n",
            "deep/a/b/c.js": "function add(a, b) {\n  return a + b;\n}\n",
            "node_modules/x/index.js": "x",
            "README.md": "# A project\n\nWith a few words.\n",
        },
    )


def test_every_file_has_a_line_and_the_numbers_agree(tmp_path) -> None:
    tree = mixed_tree(tmp_path / "tree")
    summary = build(tree, tmp_path / "corpus")
    lines = read_manifest(tmp_path / "corpus")
    paths = [one.path for one in lines]
    assert paths == sorted(set(paths))
    for file in (path for path in tree.rglob("*") if path.is_file()):
        name = file.relative_to(tree).as_posix()
        assert name in paths or any(p.endswith("/") and name.startswith(p) for p in paths), name
    reasons = {one.path: (one.reason, one.detail) for one in lines if one.reason}
    assert reasons == {
        "empty.py": ("empty", ""),
        "ignored.py": ("ignored by git", ""),
        "long.py": ("long lines", "1506 characters per line"),
        "node_modules/": ("dependencies", ""),
        "null.py": ("binary", ""),
        "picture.png": ("binary", ""),
        "src/m00.py": ("duplicate", "of copy/m00.py"),
        "src/m01.py": ("duplicate", "of copy/crlf.py"),
        "vendor/x.py": ("vendored", ""),
    }
    kept = [one for one in lines if one.reason is None]
    documents = read_documents(tmp_path / "corpus")
    assert [one.path for one in documents] == [one.path for one in kept]
    assert [one.cluster for one in documents] == [one.cluster for one in kept]
    assert [one.split for one in documents] == [one.split for one in kept]
    assert summary == read_summary(tmp_path / "corpus")
    assert summary.files_seen == len(lines)
    assert summary.files_kept == len(kept) == summary.files_train + summary.files_heldout
    assert sum(summary.dropped.values()) == len(lines) - len(kept)
    assert summary.languages == Counter(one.language for one in documents)
    assert summary.bytes_kept == sum(len(one.text.encode()) for one in documents)
    encodings = {one.path: one.encoding for one in documents}
    assert (encodings["korean.py"], encodings["wide.py"]) == ("cp949", "utf-16-le")
    assert "두 수를 더한다" in {one.path: one for one in documents}["korean.py"].text


def test_duplicates_are_never_on_both_sides(tmp_path) -> None:
    tree = mixed_tree(tmp_path / "tree")
    for seed in range(5):
        folder = tmp_path / str(seed)
        build(tree, folder, seed=seed, heldout_share=0.4)
        documents = {one.path: one for one in read_documents(folder)}
        assert documents["copy/near.py"].cluster == documents["src/m02.py"].cluster
        assert documents["copy/near.py"].split == documents["src/m02.py"].split
        sides = {(one.cluster, one.split) for one in documents.values()}
        assert len(sides) == len({cluster for cluster, _ in sides})


def test_an_independent_reader_finds_no_near_duplicate_across_the_split(tmp_path) -> None:
    # A folder with many tables that differ in a few lines, and with code that does not.
    build(STDLIB / "encodings", tmp_path / "corpus", heldout_share=0.3)
    index = MinHashLSH(threshold=0.7, num_perm=256)
    sketches = {}
    for one in read_documents(tmp_path / "corpus"):
        words = one.text.split()  # another way to cut into words than ours
        sketch = MinHash(num_perm=256)
        sketch.update_batch(
            {" ".join(words[i : i + 5]).encode() for i in range(max(len(words) - 4, 1))}
        )
        sketches[one.path, one.split] = sketch
        if one.split == "train":
            index.insert((one.path, one.split), sketch)
    heldout = [key for key in sketches if key[1] == "heldout"]
    assert len(heldout) > 20
    for key in heldout:
        for other in index.query(sketches[key]):
            assert sketches[key].jaccard(sketches[other]) < 0.7, (key, other)


def test_no_secret_is_in_any_byte_of_the_corpus(tmp_path) -> None:
    values = planted(0)
    files = {
        f"{kind.replace(' ', '_')}.py": f"{program(number)}\n{line}\n"
        for number, (kind, (_, line)) in enumerate(values.items())
    }
    # The same values where nothing tells what they are, and in files that are left out.
    password, bearer = values["password"][0], values["bearer"][0]
    env, _ = values["named"]
    files["elsewhere.py"] = program(50) + f'use("{password}", "{bearer}")\n'
    files[".env"] = f"CLIENT_SECRET='{env}x'\n"
    files["uses_env.py"] = program(51) + f'connect("{env}x")\n'
    files[f"named_{values['github'][0]}.py"] = program(52)
    files["generated.py"] = "# automatically generated\n" + values["stripe"][1]
    summary = build(write(tmp_path / "tree", files), tmp_path / "corpus")
    secrets = [secret for secret, _ in values.values()]
    assert len(secrets) >= 16
    documents = read_documents(tmp_path / "corpus")
    assert len(documents) == len(files) - 2
    shown = "\n".join(
        [repr(one) + one.text for one in documents]
        + [repr(one) for one in read_manifest(tmp_path / "corpus")]
        + [repr(summary)]
    )
    raw = b"".join(path.read_bytes() for path in (tmp_path / "corpus").iterdir())
    for secret in secrets:
        assert secret not in shown
        assert secret.encode() not in raw
    texts = {one.path: one.text for one in documents}
    assert texts["elsewhere.py"].endswith(
        'use("<SECRET:generic-password>", "<SECRET:bearer-token>")\n'
    )
    assert texts["uses_env.py"].endswith('connect("<SECRET:named-secret>")\n')
    assert sum(summary.secrets_replaced.values()) == len(values) + 3
    counts = {one.path: one.secrets for one in read_manifest(tmp_path / "corpus")}
    assert counts["elsewhere.py"] == 2
    assert counts["github.py"] == 1


def test_the_order_of_the_directory_changes_nothing(tmp_path, monkeypatch) -> None:
    tree = mixed_tree(tmp_path / "tree")
    expected = build(tree, tmp_path / "first")
    real = os.scandir
    rng = random.Random(0)

    class Shuffled:
        def __init__(self, path):
            with real(path) as scan:
                self.entries = list(scan)
            rng.shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            return None

        def close(self):
            return None

    monkeypatch.setattr(os, "scandir", Shuffled)
    for number in range(3):
        assert build(tree, tmp_path / str(number)) == expected
        assert read_documents(tmp_path / str(number)) == read_documents(tmp_path / "first")


def test_the_stage_gives_what_its_version_gave(tmp_path) -> None:
    """If this fails on purpose, raise VERSION in build.py and put the new value here."""
    summary = build(mixed_tree(tmp_path / "tree"), tmp_path / "corpus")
    assert summary.fingerprint == (
        "c0c0cf7a12f37322490897608abf3891b2f8b9cc2b5b03d39eb0de83732f181e"
    )


def test_the_seed_changes_the_split_only(tmp_path) -> None:
    tree = mixed_tree(tmp_path / "tree")
    one, other = (build(tree, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert one.fingerprint != other.fingerprint
    assert replace(one, fingerprint="") == replace(other, fingerprint="")
    texts = [{d.path: d.text for d in read_documents(tmp_path / str(seed))} for seed in (0, 1)]
    assert texts[0] == texts[1]


def test_files_that_change_while_they_are_read_are_only_left_out(tmp_path) -> None:
    tree = write(tmp_path / "tree", programs(8))

    def emit(event):
        if isinstance(event, StageStarted):  # the walk is over, nothing is read yet
            for number in range(4):
                (tree / f"src/m{number:02}.py").unlink()
            (tree / "src/m01.py").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
            (tree / "src/m02.py").mkdir()
            if os.name == "posix":
                (tree / "src/m03.py").symlink_to("/dev/zero")

    settings = {"heldout_share": 0.2, "seed": 0, "keep_vendored": False, "exclude": ()}
    build_corpus(tree, tmp_path / "corpus", canaries=0, emit=emit, **settings)
    reasons = [one.reason for one in read_manifest(tmp_path / "corpus")]
    if os.name == "posix":
        assert reasons[:4] == ["vanished", "too large", "not a regular file", "unreadable"]
    assert reasons[4:] == [None] * 4


def test_the_stage_says_how_far_it_is_and_what_came_out(tmp_path) -> None:
    events = []
    tree = write(
        tmp_path / "tree", {f"m{number:03}.py": program(number, 5) for number in range(150)}
    )
    write(tree, {"a.png": b"\x89PNG", "b.png": b"\x89PNG"})
    settings = {"heldout_share": 0.1, "seed": 0, "keep_vendored": False, "exclude": ()}
    build_corpus(tree, tmp_path / "corpus", canaries=0, emit=events.append, **settings)
    assert events[0] == StageStarted(stage="corpus", total=152, unit="files")
    done = [event.done for event in events if isinstance(event, StageProgress)]
    assert done == sorted(done)
    assert (done[-1], len(done) > 3) == (152, True)
    assert events[-1] == StageDone(
        stage="corpus",
        summary="150 of 152 files kept (135 to train on, 15 held out); left out: 2 binary",
    )


def test_an_interruption_leaves_nothing(tmp_path) -> None:
    def emit(event):
        if isinstance(event, StageProgress):
            raise KeyboardInterrupt

    settings = {"heldout_share": 0.2, "seed": 0, "keep_vendored": False, "exclude": ()}
    tree = write(tmp_path / "tree", programs(3))
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tree, tmp_path / "corpus", canaries=0, emit=emit, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert threading.active_count() == threads


def test_a_corpus_inside_the_tree_does_not_eat_itself(tmp_path) -> None:
    tree = write(tmp_path / "tree", programs(5))
    write(partial_of(tree / "corpus"), {"left.py": program(40)})
    assert build(tree, tree / "corpus").files_kept == 5


def test_vendored_code_is_kept_where_it_is_asked_for(tmp_path) -> None:
    tree = write(tmp_path / "tree", {f"vendor/m{n}.py": program(n) for n in range(3)})
    with pytest.raises(
        CorpusError, match=r"none of its 3 files is fit .*3 vendored.*keep_vendored"
    ):
        build(tree, tmp_path / "corpus")
    summary = build(tree, tmp_path / "corpus", keep_vendored=True)
    assert summary.files_kept == 3
    assert all(one.vendored for one in read_manifest(tmp_path / "corpus"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is empty: name a folder with source code"),
        (
            {"a.png": b"\x89PNG", "b.jpg": b"\xff\xd8"},
            r"no source code among its 2 files \(2 binary",
        ),
        ({"a.md": "# Words\n\nand more words\n"}, r"no source code among its 1 file \(1 no code\)"),
        ({"a.json": '{"name": "word"}\n', "b.txt": "words\n"}, "no source code among its 2 files"),
        ({"a.py": b"", "b.py": b"\0"}, r"none of its 2 files is fit .*1 binary, 1 empty"),
        ({"a.py": CODE, "b.png": b"\0"}, r"Only a\.py is left, so nothing can be held out"),
        ({"a.py": CODE, "b.py": CODE}, r"Only a\.py is left, so nothing can be held out"),
        ({"a.py": CODE, "b.py": CODE + "x = 1\n"}, "None of the 2 files .* near-duplicates"),
    ],
)
def test_a_tree_with_nothing_to_learn_from_is_one_sentence(files, message, tmp_path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(CorpusError, match=message) as error:
        build(write(tmp_path / "tree", files), tmp_path / "corpus")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_one_file_is_enough_unless_something_is_to_be_held_out(tmp_path) -> None:
    write(tmp_path, {"a.py": CODE})
    with pytest.raises(CorpusError, match=r"is one file.*give a folder.*heldout_share to 0"):
        build(tmp_path / "a.py", tmp_path / "corpus")
    summary = build(tmp_path / "a.py", tmp_path / "corpus", heldout_share=0)
    assert (summary.files_train, summary.files_heldout) == (1, 0)
    (document,) = read_documents(tmp_path / "corpus")
    assert (document.path, document.text, document.split) == ("a.py", CODE, "train")


def test_a_path_that_does_not_exist_is_one_sentence(tmp_path) -> None:
    with pytest.raises(CorpusError, match="nothing does not exist"):
        build(tmp_path / "nothing", tmp_path / "corpus")
