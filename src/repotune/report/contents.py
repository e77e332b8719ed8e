"""Everything that a report is made of, read from the run folder by whoever may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from repotune.records import CorpusSummary, Evaluation, RowsSummary
from repotune.report.metrics import Metrics
from repotune.runs import RunState

Lang: TypeAlias = Literal["en", "ko"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTally:
    """Files of one language: kept and dropped, with the bytes on disk of the kept ones."""

    language: str
    kept: int
    kept_bytes: int
    dropped: dict[str, int]
    """Reason -> files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A run, as far as it came; what is not there is None and is said in the report."""

    name: str
    path: str
    status: str
    """As in the list of runs: also ``stopped`` for a process that is gone."""
    state: RunState
    config_toml: str
    metrics: Metrics
    corpus: CorpusSummary | None
    languages: tuple[LanguageTally, ...]
    """By kept files; those whose language was never found out are not among them."""
    folders_passed: int
    """Folders that were not entered."""
    rows: RowsSummary | None
    evaluation: Evaluation | None
    has_adapter: bool
    damaged: tuple[str, ...]
    """Sentences on files that are there and cannot be read."""
