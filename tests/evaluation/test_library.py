"""Which files of the standard library are read, and which the training has spoilt."""

import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from repotune.evaluation.library import draw_library

from .tiny import document

LINE = "def function_{0}(value):\n    return value + {0}\n"


@pytest.fixture
def library(tmp_path):
    """Eight modules that share nothing, and what is passed over."""
    for number in range(8):
        text = "".join(LINE.format(1000 * number + line) for line in range(60))
        (tmp_path / f"module{number}.py").write_text(text, encoding="utf-8")
    for name in ("test/test_it.py", "site-packages/other.py", "json/tests/x.py", "short.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n" * (2 if name == "short.py" else 900))
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n" + b"x = 1\n" * 900)
    return tmp_path


def text_of(library, number):
    return (library / f"module{number}.py").read_text(encoding="utf-8")


def test_the_seed_decides_and_only_modules_are_drawn(library):
    found = draw_library((), files=20, characters=10**6, seed=1, folder=library)
    assert {one.path for one in found.documents} == {f"module{n}.py" for n in range(8)}
    some = draw_library((), files=4, characters=10**6, seed=1, folder=library)
    assert some == draw_library((), files=4, characters=10**6, seed=1, folder=library)
    others = [draw_library((), files=4, characters=9, seed=n, folder=library) for n in range(9)]
    assert len({tuple(one.path for one in each.documents) for each in others}) > 3


def test_whole_lines_are_read_from_anywhere(library):
    texts = []
    for one in draw_library((), files=20, characters=100, seed=1, folder=library).documents:
        whole = (library / one.path).read_text(encoding="utf-8")
        texts.append(one.text)
        assert 100 <= len(one.text) < 200
        assert one.text in whole
        assert all(line in whole.splitlines() for line in one.text.splitlines())
        assert one.text.endswith("\n")
    assert not all("_0(" in text for text in texts)


def test_what_the_training_holds_is_left_out_and_not_replaced(library):
    training = [
        document("copy.py", text_of(library, 3)),
        document("near.py", text_of(library, 5) + LINE.format(1)),
        document("other.py", "".join(LINE.format(line) for line in range(9000, 9050))),
    ]
    found = draw_library(training, files=20, characters=100, seed=1, folder=library)
    assert found.near_duplicates == 2
    assert {one.path for one in found.documents} == {f"module{n}.py" for n in (0, 1, 2, 4, 6, 7)}


def test_files_of_other_languages_are_not_compared(library):
    training = [replace(document("copy.txt", text_of(library, 3)), language="Text")]
    found = draw_library(training, files=20, characters=9, seed=1, folder=library)
    assert found.near_duplicates == 0


def test_the_library_of_this_python_is_found():
    found = draw_library((), files=12, characters=2_000, seed=42)
    stdlib = Path(sysconfig.get_path("stdlib"))
    assert len(found.documents) == 12
    for one in found.documents:
        assert one.text in (stdlib / one.path).read_text(encoding="utf-8")
        assert len(one.text) >= 2_000
