"""A run as one HTML file: the verb behind ``repotune report``.

It reads what lies in the run folder and computes nothing anew, so it needs no torch and no lock,
and works on a run that is still going on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from repotune.durable import write_durably, writing
from repotune.errors import RunError, UsageError
from repotune.runs import RunFolder, find_run, list_runs

if TYPE_CHECKING:
    from repotune.report import Contents, Lang, LanguageTally

REPORT: Final = "report.html"
_HEAD_BYTES: Final = 400
"""A report says within these that it is one."""

Found = TypeVar("Found")


def report(run: str | Path, *, lang: Lang = "en", output: Path | None = None) -> Path:
    """Write the report on ``run`` and return its path: ``output``, or ``report.html`` in the run.

    What the run does not have is said in the report. An older report is replaced, any other file is
    not: that, and a folder, raises UsageError. Raises RunError if there is no such run or its
    ``run.json`` is damaged, RunError or DiskFull if the file cannot be written.
    """
    from repotune.report import to_html

    folder = find_run(run, Path.cwd())
    path = (output or folder.path / REPORT).absolute()
    _refuse_other(path)
    page = to_html(read_contents(folder), lang)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, then="make the report again"):
        try:
            write_durably(partial, page.encode())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    return path


def read_contents(folder: RunFolder) -> Contents:
    """All that the run has; what is damaged is named among the contents."""
    from repotune.corpus import read_summary
    from repotune.evaluation import read_evaluation
    from repotune.report import Contents, parse_metrics
    from repotune.tokens import RowStore

    state = folder.state()
    damaged: list[str] = []

    def read(path: Path, reader: Callable[[], Found]) -> Found | None:
        if not path.exists():
            return None
        try:
            return reader()
        except RunError as error:
            damaged.append(str(error))
            return None

    tally = read(folder.corpus, lambda: _tally(folder))
    return Contents(
        name=folder.path.name,
        path=str(folder.path),
        status=_status(folder, state.status),
        state=state,
        config_toml=_text(folder.config_toml),
        metrics=parse_metrics(_text(folder.metrics).splitlines()),
        corpus=read(folder.corpus, lambda: read_summary(folder.corpus)),
        languages=tally[0] if tally else (),
        folders_passed=tally[1] if tally else 0,
        rows=read(folder.tokens, lambda: RowStore(folder.tokens).summary),
        evaluation=read(folder.evaluation, lambda: read_evaluation(folder.evaluation)),
        has_adapter=folder.adapter.exists(),
        damaged=tuple(damaged),
    )


def _status(folder: RunFolder, written: str) -> str:
    """As the list of runs says it: that knows when the process is gone."""
    infos = list_runs(folder.path.parent)
    # A run whose name begins with a dot is in no list.
    return next((one.status for one in infos if one.path == str(folder.path)), written)


def _tally(folder: RunFolder) -> tuple[tuple[LanguageTally, ...], int]:
    """What the manifest says by language, and the folders that were not entered."""
    from repotune.corpus import read_manifest
    from repotune.report import LanguageTally

    kept: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    dropped: dict[str, Counter[str]] = {}
    folders = 0
    for line in read_manifest(folder.corpus):
        folders += line.path.endswith("/")
        if line.language is None:
            continue
        if line.reason is None:
            kept[line.language] += 1
            sizes[line.language] += line.size_bytes
        else:
            dropped.setdefault(line.language, Counter())[line.reason] += 1
    names = sorted({*kept, *dropped}, key=lambda name: (-kept[name], name))
    tallies = tuple(
        LanguageTally(
            language=name,
            kept=kept[name],
            kept_bytes=sizes[name],
            dropped=dict(dropped.get(name, {})),
        )
        for name in names
    )
    return tallies, folders


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _refuse_other(path: Path) -> None:
    from repotune.report import MARK

    if path.is_dir():
        raise UsageError(f"{path} is a folder: give a file's name with -o.")
    if path.exists():
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if MARK.encode() not in head:
            raise UsageError(
                f"{path} is there already and is no report of repotune: choose another file with "
                "-o, or move that one away."
            )
