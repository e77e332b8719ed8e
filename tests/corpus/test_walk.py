"""Which files the walk finds, and that nothing leads it out of the tree."""

import os
import sys

import pytest

from repotune.corpus.manifest import FileLine
from repotune.corpus.walk import MAX_FILE_BYTES, Candidate, read_bytes, walk
from repotune.errors import CorpusError

from .trees import write

POSIX = os.name == "posix"


def reasons(root, *, exclude=(), keep_vendored=False):
    return {
        one.path: one.reason if isinstance(one, FileLine) else None
        for one in walk(root, exclude=exclude, keep_vendored=keep_vendored)
    }


def test_every_file_has_a_line_in_the_order_of_the_paths(tmp_path) -> None:
    write(tmp_path, {"b/x.py": "x", "b/a/y.py": "y", "b.py": "z", "empty.py": ""})
    found = walk(tmp_path, exclude=(), keep_vendored=False)
    assert [one.path for one in found] == ["b.py", "b/a/y.py", "b/x.py", "empty.py"]
    assert reasons(tmp_path)["empty.py"] == "empty"


def test_what_is_not_entered_is_one_line(tmp_path) -> None:
    write(
        tmp_path,
        {
            ".git/config": "x", "a/node_modules/x.js": "x", "__pycache__/x.pyc": "x",
            "env/pyvenv.cfg": "x", "env/lib/a.py": "x", "conda/conda-meta/a": "x",
            "repotune-runs/a/run.json": "x", "mine/run.json": '{"versions": {"repotune": "0.1"}}',
            "other/run.json": '{"name": "else"}', "vendor/a.go": "x", "skip/a.py": "x", "b.py": "x",
        },
    )  # fmt: skip
    assert reasons(tmp_path, exclude=(tmp_path / "skip", tmp_path / "b.py")) == {
        ".git/": "version control",
        "__pycache__/": "cache",
        "a/node_modules/": "dependencies",
        "b.py": "excluded",
        "conda/": "virtual environment",
        "env/": "virtual environment",
        "mine/": "run of repotune",
        "other/run.json": None,
        "repotune-runs/": "run of repotune",
        "skip": "excluded",
        "vendor/a.go": "vendored",
    }
    assert reasons(tmp_path, keep_vendored=True)["vendor/a.go"] is None


def test_no_link_is_followed_and_nothing_special_is_read(tmp_path) -> None:
    outside = write(tmp_path / "outside", {"secret.py": "x = 1\n"})
    tree = write(tmp_path / "tree", {"a.py": "x = 1\n"})
    expected = {"a.py": None}
    if POSIX:  # Windows asks for a privilege to make links, and has no pipes in folders
        links = {"out": outside, "file.py": outside / "secret.py", "loop": tree, "gone.py": "gone"}
        links |= {"zero.py": "/dev/zero", "self.py": "self.py", ".gitignore": outside / "secret.py"}
        for name, target in links.items():
            (tree / name).symlink_to(target)
        os.mkfifo(tree / "pipe.py")
        expected |= dict.fromkeys(links, "symlink") | {"pipe.py": "not a regular file"}
        (tree / os.fsdecode(b"\xff.py")).write_text("x")
        expected["\\udcff.py"] = "name is not UTF-8"
    assert reasons(tree) == expected


def test_a_link_to_the_tree_is_the_tree(tmp_path) -> None:
    write(tmp_path / "tree", {"a.py": "x"})
    if POSIX:
        (tmp_path / "link").symlink_to(tmp_path / "tree")
        assert reasons(tmp_path / "link", exclude=(tmp_path / "link" / "a.py",)) == {
            "a.py": "excluded"
        }


def test_a_file_of_two_gigabytes_is_not_read(tmp_path) -> None:
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(2 << 30)
    write(tmp_path, {"largest.py": b"#" * MAX_FILE_BYTES, "larger.py": b"#" * (MAX_FILE_BYTES + 1)})
    assert reasons(tmp_path) == {
        "huge.py": "too large", "larger.py": "too large", "largest.py": None,
    }  # fmt: skip


def test_one_file_is_a_tree_too(tmp_path) -> None:
    write(tmp_path, {"a.py": "x = 1\n"})
    (found,) = walk(tmp_path / "a.py", exclude=(), keep_vendored=False)
    assert isinstance(found, Candidate)
    assert read_bytes(found) == b"x = 1\n"


def test_what_changed_after_the_look_is_said(tmp_path) -> None:
    names = ["fine.py", "gone.py", "grown.py", "link.py", "pipe.py"]
    write(tmp_path, dict.fromkeys(names, "x = 1\n"))
    found = walk(tmp_path, exclude=(), keep_vendored=False)
    for name in names[1:]:
        (tmp_path / name).unlink()
    write(tmp_path, {"grown.py": b"#" * (MAX_FILE_BYTES + 1)})
    expected = [None, "vanished", "too large", "vanished", "vanished"]
    if POSIX:
        (tmp_path / "link.py").symlink_to("/dev/zero")
        os.mkfifo(tmp_path / "pipe.py")
        expected[3:] = ["unreadable", "not a regular file"]
    contents = [read_bytes(one) for one in found if isinstance(one, Candidate)]
    assert [one.reason if isinstance(one, FileLine) else None for one in contents] == expected


def test_a_tree_may_be_deeper_than_the_stack(tmp_path) -> None:
    depth = sys.getrecursionlimit() + 200 if POSIX else 20  # Windows has no room for more
    folders = [tmp_path]
    for _ in range(depth):
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    file = folders[-1] / "a.py"
    file.write_text("x")
    try:
        assert reasons(tmp_path) == {"d/" * depth + "a.py": None}
    finally:  # others that clear folders away are not so careful with the stack
        file.unlink()
        for folder in reversed(folders[1:]):
            folder.rmdir()


def test_a_root_that_cannot_be_read_is_one_sentence(tmp_path) -> None:
    with pytest.raises(CorpusError, match="nothing does not exist: name a folder"):
        reasons(tmp_path / "nothing")
    if POSIX:
        (tmp_path / "one").symlink_to(tmp_path / "two")
        (tmp_path / "two").symlink_to(tmp_path / "one")
        with pytest.raises(CorpusError, match="cannot be read"):
            reasons(tmp_path / "one")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CorpusError, match=r"cannot be read \(Not a directory\)"):
            reasons(tmp_path / "pipe")
