"""Code that is not the user's, and that every computer has: Python's own standard library."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from repotune.corpus.duplicates import NEAR, repeated
from repotune.records import Document

MIN_BYTES: Final = 2_000
"""Shorter files are mostly imports."""
_PASSED_OVER: Final = frozenset((
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "turtledemo",
))  # fmt: skip
"""Installed packages, tests, and tables that are no code as people write it."""
_DRAW: Final = 5
"""Keeps these draws apart from others of the same seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Files drawn from the standard library, as far as the training has not seen them."""

    documents: tuple[Document, ...]
    near_duplicates: int
    """Of those drawn, files left out because a training file is nearly the same."""


def draw_library(
    training: Iterable[Document], *, files: int, characters: int, seed: int,
    folder: Path | None = None,
) -> Library:  # fmt: skip
    """About ``characters``, in whole lines, of each of ``files`` files, drawn by ``seed``.

    The beginning of a file is mostly words about it, so the lines are from anywhere. A file with a
    near-duplicate among ``training`` (as ``corpus`` has it) is left out and not replaced.
    ``folder`` None: the standard library of the Python that runs; fewer files, or none, where it
    has not so many or is packed into an archive.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    found = sorted(_sources(root), key=lambda path: path.as_posix())
    generator = np.random.default_rng((seed, _DRAW))
    order = generator.permutation(len(found))
    drawn = [(path, text) for path, text in _texts(root, [found[i] for i in order[:files]])]
    python = (one.text for one in training if one.language == "Python")
    near = repeated([text for _, text in drawn], python, least=NEAR)
    kept = [one for index, one in enumerate(drawn) if index not in near]
    return Library(
        documents=tuple(
            _document(path, _piece(text, characters, generator)) for path, text in kept
        ),
        near_duplicates=len(near),
    )


def _sources(root: Path) -> Iterator[Path]:
    """Relative paths of the library's modules."""
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if not _PASSED_OVER.intersection(relative.parts) and path.stat().st_size >= MIN_BYTES:
            yield relative


def _texts(root: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        try:
            text = (root / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        yield path, text


def _piece(text: str, characters: int, generator: np.random.Generator) -> str:
    """Whole lines from a place that ``generator`` draws; all of a text that is short."""
    if len(text) <= characters:
        return text
    place = int(generator.integers(len(text) - characters + 1))
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", start + characters - 1)
    return text[start:] if end < 0 else text[start : end + 1]


def _document(path: Path, text: str) -> Document:
    return Document(
        path=path.as_posix(), language="Python", text=text, sha256="", cluster=0, split="heldout",
        encoding="utf-8",
    )  # fmt: skip
