"""What git ignores, with git itself as the oracle."""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from repotune.corpus.ignore import IgnoreRules
from repotune.corpus.walk import Candidate, walk

from .trees import write


def git(folder: Path, *arguments: str) -> str:
    """Git's answer, whatever the configuration of who runs the test says."""
    quiet = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **quiet, "GIT_CONFIG_GLOBAL": os.devnull},
        check=True,
        capture_output=True,
    )
    return done.stdout.decode()


def kept_by_git(root: Path) -> set[str]:
    git(root, "init", "--quiet")
    listed = git(root, "ls-files", "-z", "--others", "--exclude-standard")
    return {path for path in listed.split("\0") if path}


def kept_by_us(root: Path) -> set[str]:
    found = walk(root, exclude=(), keep_vendored=True)
    return {one.path for one in found if isinstance(one, Candidate)}


def test_nested_rules_are_read_as_git_reads_them(tmp_path) -> None:
    files = dict.fromkeys(
        [
            "a.py", "a.log", "keep.log", "build/a.py", "src/build/a.py", "src/a.tmp", "src/b.tmp",
            "src/deep/c.tmp", "src/deep/keep.tmp", "doc/x.txt", "doc/in/x.txt", "out/a", "out/keep",
            "sp ace.py", "trail ", "#hash", "!bang", "a[1].py", "x1.c", "x2.c", "x9.c", "한글.py",
            "only/dir/file.py", "only/file.py", "dir", "sub/dir/file.py", "mid/one/two/end.py",
            "mid/end.py", "star/a/b.py", "UPPER.py", "upper.py", "private.py",
        ],
        "x\n",
    )  # fmt: skip
    files |= {
        ".gitignore": "\ufeff*.log\n!keep.log\nbuild/\n/doc/*.txt\nout/*\n!out/keep\ntrail\\ \n"
        "\\#hash\n\\!bang\na\\[1\\].py\nx[1-3].c\n한글.py\n# a comment\n\n   \nmid/**/end.py\n"
        "star/**\nUPPER.py\r\nsp ace.py   \n[bad\n",
        "src/.gitignore": "*.tmp\n!b.tmp\n",
        "src/deep/.gitignore": "!keep.tmp\n",
        "only/.gitignore": "dir\n",
        "sub/.gitignore": "/dir/\n",
    }
    write(tmp_path, files)
    git(tmp_path, "init", "--quiet")
    write(tmp_path, {".git/info/exclude": "private.py\n"})
    expected = kept_by_git(tmp_path)
    assert kept_by_us(tmp_path) == expected
    assert "keep.log" in expected
    assert "private.py" not in expected


@pytest.mark.parametrize("seed", range(6))
def test_random_rules_are_read_as_git_reads_them(seed, tmp_path) -> None:
    rng = random.Random(seed)
    parts = ["a", "b", "ab", "c.x", "d.y", "e"]
    for _ in range(60):
        path = "/".join(rng.choices(parts, k=rng.randrange(1, 5)))
        try:
            write(tmp_path, {path: "x\n"})
        except OSError:  # a file where a folder should be, or the other way round
            continue
    pieces = [*parts, "*", "**", "?", "*.x", "a*", "[ab]", "[!a]", "*.?"]
    folders = [path for path in sorted(tmp_path.rglob("*")) if path.is_dir()]
    for folder in [tmp_path, *rng.sample(folders, min(5, len(folders)))]:
        lines = [
            rng.choice(["", "", "", "!", "/"])
            + "/".join(rng.choices(pieces, k=rng.choice([1, 1, 1, 2, 2, 3])))
            + rng.choice(["", "", "/"])
            for _ in range(6)
        ]
        write(folder, {".gitignore": "\n".join(lines)})
    assert kept_by_us(tmp_path) == kept_by_git(tmp_path)


def test_a_hostile_pattern_takes_no_time() -> None:
    rules = IgnoreRules().inside("", "*a" * 40 + "\n" + "**/a*a*a*b\n")
    begin = time.process_time()
    assert not rules.ignores("a" * 200)
    assert time.process_time() - begin < 2
