"""The same figures for the files of one language, or of one directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from repotune.evaluation.bits_per_byte import bits_per_byte
from repotune.evaluation.bootstrap import difference_interval
from repotune.records import FloatArray, GroupFigures, IntArray

MIN_FILES = 6
"""Fewer files give no interval: if all of five got better, the sign test's p is 2 · 0.5**5 = 0.06,
and a bootstrap over so few is narrower than it should be; all of six give 0.03."""
ROOT = "."


def group_figures(
    paths: Sequence[str],
    languages: Mapping[str, str],
    base_nats: FloatArray,
    tuned_nats: FloatArray,
    byte_counts: IntArray,
    *,
    seed: int,
) -> tuple[GroupFigures, ...]:
    """By language and then by directory; ``languages`` is path -> language, sums are [files]."""
    by: tuple[tuple[Literal["language", "directory"], list[str]], ...] = (
        ("language", [languages[path] for path in paths]),
        ("directory", directories(paths)),
    )
    found = []
    for kind, names in by:
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
