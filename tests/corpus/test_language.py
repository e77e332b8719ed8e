"""Which language a file is in."""

import pytest

from repotune.corpus.language import is_binary_name, language_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.py", "Python"), ("A.PY", "Python"), ("a.pyi", "Python"), ("a.c", "C"), ("a.h", "C"),
        ("a.cpp", "C++"), ("a.cu", "Cuda"), ("a.mm", "Objective-C++"), ("a.rs", "Rust"),
        ("a.go", "Go"), ("a.ts", "TypeScript"), ("a.tsx", "TypeScript"), ("a.jsx", "JavaScript"),
        ("a.kt", "Kotlin"), ("a.java", "Java"), ("a.sql", "SQL"), ("a.f90", "Fortran"),
        ("Makefile", "Makefile"), ("Dockerfile", "Dockerfile"), ("CMakeLists.txt", "CMake"),
        ("a.yml", "YAML"), ("setup.cfg", "INI"), ("a.md", "Markdown"), ("a.txt", "Text"),
        ("a.ipynb", None), ("a.svg", None), ("id_rsa.pem", None), ("LICENSE", "Text"),
        ("a.unheard", None),
    ],
)  # fmt: skip
def test_the_name_says_the_language(name, expected) -> None:
    language = language_of(name, b"")
    assert (language and language.name) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"#!/usr/bin/env python3\nimport os\n", "Python"),
        (b"#!/bin/sh\necho\n", "Shell"),
        (b"#!/usr/bin/perl -w\n", "Perl"),
        (b"#!\n", None),
        (b"#!\xff\xfe\n", None),
        (b"echo\n", None),
    ],
)
def test_the_first_line_says_it_where_the_name_does_not(content, expected) -> None:
    language = language_of("program", content)
    assert (language and language.name) == expected


def test_code_is_what_is_programmed_or_marked_up() -> None:
    kinds = {name: language_of(name, b"") for name in ("a.py", "a.css", "a.json", "a.md")}
    assert [one is not None and one.is_code for one in kinds.values()] == [True, True, False, False]


def test_a_word_without_quotes_is_a_name_in_most_programs_only() -> None:
    for name, expected in (("a.py", True), ("a.sh", False), ("a.yaml", False)):
        language = language_of(name, b"")
        assert language is not None
        assert language.words_are_names is expected


def test_pictures_and_archives_are_known_by_name() -> None:
    assert all(is_binary_name(name) for name in ("a.png", "a.zip", "a.exe", "a.whl"))
    assert not any(is_binary_name(name) for name in ("a.py", "a.svg", "a.unheard", "Makefile"))
