"""The figures of languages and directories, from those of their files."""

import math

import numpy as np
import pytest

from repotune.evaluation.bootstrap import difference_interval
from repotune.evaluation.groups import MIN_FILES, directories, group_figures, groups_of

from .tiny import document


def test_a_group_has_the_figures_of_its_files_alone():
    paths = [f"src/core/{i}.py" for i in range(MIN_FILES)] + ["src/web/a.js", "src/b.py"]
    where = groups_of([document(path, "") for path in paths])
    where["language"] = {p: "JavaScript" if p.endswith("js") else "Python" for p in paths}
    rng = np.random.default_rng(0)
    base = rng.uniform(100, 200, len(paths))
    tuned = base * rng.uniform(0.7, 1.1, len(paths))
    sizes = rng.integers(50, 90, len(paths))
    found = {
        (one.by, one.name): one for one in group_figures(paths, where, base, tuned, sizes, seed=3)
    }
    assert set(found) == {
        ("language", "Python"), ("language", "JavaScript"),
        ("directory", "src/core"), ("directory", "src/web"), ("directory", "src"),
    }  # fmt: skip
    core = found["directory", "src/core"]
    some = slice(0, MIN_FILES)
    assert core.files == MIN_FILES
    assert core.bytes_scored == sizes[some].sum()
    expected = base[some].sum() / math.log(2) / sizes[some].sum()
    assert core.base_bits_per_byte == pytest.approx(expected)
    assert core.difference == difference_interval(base[some], tuned[some], sizes[some], seed=3)
    assert found["directory", "src/web"].difference is None  # one file
    assert found["language", "Python"].files == MIN_FILES + 1


def test_directories_are_those_below_what_all_have_in_common():
    assert directories(["a/b/x.py", "a/b/c/y.py", "a/b/c/d/z.py"]) == ["a/b", "a/b/c", "a/b/c"]
    assert directories(["x.py", "a/y.py"]) == [".", "a"]
    assert directories(["x.py", "y.py"]) == [".", "."]
    assert directories([]) == []


def test_documents_are_grouped_by_language_and_directory():
    found = groups_of([document("a/b/x.py", ""), document("a/y.py", "")])
    assert found == {
        "language": {"a/b/x.py": "Python", "a/y.py": "Python"},
        "directory": {"a/b/x.py": "a/b", "a/y.py": "a"},
    }
