"""One file at a time: why it is left out, and what is recorded of it."""

import codecs
import hashlib

import pytest

from repotune.corpus.examine import examine, licence_of, passed_over
from repotune.corpus.manifest import FileLine
from repotune.corpus.walk import Candidate, walk

from .planted import planted
from .trees import CODE, write


def examined(root, name, content):
    write(root, {name: content})
    (one,) = [c for c in walk(root, exclude=(), keep_vendored=True) if c.path == name]
    assert isinstance(one, Candidate)
    return examine(one)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.py", CODE, None),
        ("a.py", CODE.replace("\n", "\r\n"), None),
        ("a.py", CODE.encode("utf-16"), None),
        ("a.py", CODE.replace("Points", "점들").encode("cp949"), None),
        ("a.py", b"\0" * 100, "binary"),
        ("a.py", CODE.encode() * 200 + b"\0", "undecodable"),
        ("a.py", codecs.BOM_UTF8, "empty"),
        ("a.py", "\n \n", "empty"),
        ("a.png", b"\x89PNG", "binary"),
        ("a.xyz", "some words\n", "unknown language"),
        ("a.txt", "some words\n", "plain text"),
        ("a.py", "# automatically generated\n" + CODE, "generated"),
    ],
)
def test_each_outcome_has_its_reason(name, content, expected, tmp_path) -> None:
    one = examined(tmp_path, name, content)
    assert one.line.reason == expected
    assert (one.text is None) == (expected is not None)
    assert one.line.size_bytes == (tmp_path / name).stat().st_size


def test_what_is_recorded_of_a_kept_file(tmp_path) -> None:
    content = ("# SPDX-License-Identifier: MIT\r\n" + CODE).encode("utf-16")
    one = examined(tmp_path, "sub/a.py", content)
    assert one.text == "# SPDX-License-Identifier: MIT\n" + CODE
    assert one.line == FileLine(
        path="sub/a.py",
        reason=None,
        size_bytes=len(content),
        language="Python",
        encoding="utf-16-le",
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
    )


@pytest.mark.parametrize(
    ("name", "line"), [("a.py", "# automatically generated\n"), (".env", ""), ("a.txt", "")]
)
def test_secrets_of_a_file_that_is_left_out_are_known(name, line, tmp_path) -> None:
    secret, holder = planted(0)["github"]
    one = examined(tmp_path, name, line + holder + "\n")
    assert one.line.reason is not None
    assert secret in one.values
    assert secret not in repr(one)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# SPDX-License-Identifier: Apache-2.0\n", "Apache-2.0"),
        ("/* SPDX-License-Identifier: GPL-2.0-or-later */\n", "GPL-2.0-or-later"),
        ("<!-- SPDX-License-Identifier:MIT -->", "MIT"),
        ("// SPDX-License-Identifier: (MIT OR Apache-2.0)\n", "(MIT OR Apache-2.0)"),
        (
            "# SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note\n",
            "GPL-2.0 WITH Linux-syscall-note",
        ),
        ("# SPDX-License-Identifier: MIT see LICENSE\n", "MIT"),
        ("# SPDX-License-Identifier: MIT or\n", "MIT"),
        ("# SPDX-License-Identifier:\nMIT\n", None),
        ("# under the MIT licence\n", None),
        ("#\n" * 5000 + "# SPDX-License-Identifier: MIT\n", None),
    ],
)
def test_the_licence_is_what_the_header_names(text, expected) -> None:
    assert licence_of(text) == expected


def test_the_name_of_what_was_passed_over_says_whether_it_was_code() -> None:
    assert passed_over(FileLine(path="vendor/a.go", reason="vendored")).is_code
    assert not passed_over(FileLine(path="a.png", reason="symlink")).is_code
    assert not passed_over(FileLine(path="lib.py/", reason="ignored by git")).is_code
