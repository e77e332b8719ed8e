"""Canaries: random lines put into training files on request, to see later what was memorised.

    # canary 9f2c41d07a35: 61b0 e8d4 2f97 c05e

Each is a comment with a name and a secret of 64 random bits, a line of its own, in files of the
training side only. Beside them are as many controls of the same form that no file has: what the
model knows of a canary beyond what it knows of them, it knows from the training (Carlini et al.
2019, arXiv 1802.08232).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from repotune.errors import CorpusError
from repotune.records import Canary, Document

REPEATS: Final = (1, 4, 16)
"""In so many places they are put, in turn: as code stands in a repository once, or many times."""
_STREAM: Final = "canaries"
"""Keeps these draws apart from others of the same seed."""
_COMMENTS: Final = {
    "#": "CMake Dockerfile Elixir GDScript Julia Makefile Meson Nim Perl Python R Ruby Shell "
    "Starlark",
    "//": "C C# C++ Cuda D Dart GLSL Go Groovy Java JavaScript Kotlin Objective-C PHP Rust Scala "
    "Solidity Swift SystemVerilog TypeScript Verilog Zig",
    "--": "Ada Elm Haskell Lua SQL VHDL",
    ";": "Clojure Racket Scheme",
    "%": "Erlang Prolog TeX",
}
_MARK: Final = {
    language: mark for mark, languages in _COMMENTS.items() for language in languages.split()
}
"""Language -> what begins a comment to the end of the line."""


def plant(
    documents: Sequence[Document], count: int, *, seed: int
) -> tuple[list[Document], list[Canary]]:
    """The documents with ``count`` canaries in them, and the canaries followed by their controls.

    They go into training files of one language, the most frequent one whose comments are known.
    Raises CorpusError if there is none.
    """
    random = Random(f"{_STREAM} {seed}")
    places = _places(documents)
    canaries = [_draw(_MARK[documents[places[0]].language], random) for _ in range(2 * count)]
    canaries = [
        replace(one, repeats=REPEATS[number % len(REPEATS)]) if number < count else one
        for number, one in enumerate(canaries)
    ]
    changed = list(documents)
    for canary in canaries:
        for place in _chosen(places, canary.repeats, random):
            document = changed[place]
            lines = document.text.split("\n")
            lines.insert(random.randrange(len(lines)), canary.prefix + canary.secret)
            changed[place] = replace(document, text="\n".join(lines))
    return changed, canaries


def _places(documents: Sequence[Document]) -> list[int]:
    """The training files of that language."""
    counts = Counter(
        one.language for one in documents if one.split == "train" and one.language in _MARK
    )
    if not counts:
        raise CorpusError(
            "No training file is in a language whose comments are known, so there is no place for "
            "canaries: set memorisation_canaries to 0."
        )
    language = min(counts, key=lambda name: (-counts[name], name))
    return [
        number for number, one in enumerate(documents)
        if one.split == "train" and one.language == language
    ]  # fmt: skip


def _draw(mark: str, random: Random) -> Canary:
    words = " ".join(f"{random.getrandbits(16):04x}" for _ in range(4))
    name = f"{random.getrandbits(48):012x}"
    return Canary(prefix=f"{mark} canary {name}:", secret=f" {words}", repeats=0)


def _chosen(places: Sequence[int], count: int, random: Random) -> list[int]:
    """``count`` of ``places``, each once before any twice."""
    chosen: list[int] = []
    while len(chosen) < count:
        chosen += random.sample(places, min(len(places), count - len(chosen)))
    return chosen
