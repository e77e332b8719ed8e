"""The same figures for the files of one language, or of one directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

import numpy as np

from repotune.evaluation.bits_per_byte import bits_per_byte
from repotune.evaluation.bootstrap import difference_interval
from repotune.records import Document, FloatArray, GroupFigures, IntArray

MIN_FILES = 6
"""Fewer files give no interval: if all of five got better, the sign test's p is 2 · 0.5**5 = 0.06,
and a bootstrap over so few is narrower than it should be; all of six give 0.03."""
ROOT = "."


By: TypeAlias = Literal["language", "directory"]


def groups_of(documents: Sequence[Document]) -> dict[By, dict[str, str]]:
    """For each kind of group: the one that each path is in."""
    paths = [document.path for document in documents]
    return {
        "language": {document.path: document.language for document in documents},
        "directory": dict(zip(paths, directories(paths), strict=True)),
    }


def group_figures(
    paths: Sequence[str],
    where: Mapping[By, Mapping[str, str]],
    base_nats: FloatArray,
    tuned_nats: FloatArray,
    byte_counts: IntArray,
    *,
    seed: int,
) -> tuple[GroupFigures, ...]:
    """By language and then by directory, as ``groups_of`` says; sums are [files]."""
    found = []
    for kind, group_of in where.items():
        names = [group_of[path] for path in paths]
        some = []
        for name in sorted(set(names)):
            members = np.array([one == name for one in names])
            base, tuned, sizes = base_nats[members], tuned_nats[members], byte_counts[members]
            enough = len(sizes) >= MIN_FILES
            some.append(
                GroupFigures(
                    by=kind,
                    name=name,
                    files=len(sizes),
                    bytes_scored=int(sizes.sum()),
                    base_bits_per_byte=bits_per_byte(base, sizes),
                    tuned_bits_per_byte=bits_per_byte(tuned, sizes),
                    difference=difference_interval(base, tuned, sizes, seed=seed)
                    if enough
                    else None,
                )
            )
        found += sorted(some, key=lambda one: -one.bytes_scored)
    return tuple(found)


def directories(paths: Sequence[str]) -> list[str]:
    """The directory of each file just below the one that all have in common."""
    parents = [PurePosixPath(path).parts[:-1] for path in paths]
    depth = 0
    while parents and all(len(one) > depth and one[depth] == parents[0][depth] for one in parents):
        depth += 1
    return ["/".join(one[: depth + 1]) or ROOT for one in parents]
