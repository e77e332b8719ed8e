"""An evaluation as the file ``evaluation.json``, under the names of ``records.Evaluation``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from repotune.errors import RunError
from repotune.evaluation.verdict import judge
from repotune.records import (
    CanaryFigures,
    Compared,
    Completion,
    Evaluation,
    Forgetting,
    GroupFigures,
    Interval,
    Judgement,
    LibraryFigures,
    LineGroup,
    Memorisation,
    TaskFigures,
)
from repotune.runs import write_json_atomic


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation`` as JSON; ``path`` holds the old one or the new one, never a part.

    Raises DiskFull or RunError.
    """
    write_json_atomic(path, asdict(evaluation))


def read_evaluation(path: Path) -> Evaluation:
    """What ``write_evaluation`` wrote; one of an older version is judged now.

    Raises RunError if it is missing or damaged.
    """
    again = "make it again with `repotune evaluate RUN`"
    try:
        found = _evaluation(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): {again}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): {again}.") from None
    return found if found.judgement else replace(found, judgement=judge(found))


def _evaluation(value: dict[str, Any]) -> Evaluation:
    parts: dict[str, Any] = {
        "difference": Interval(**value["difference"]),
        "completions": tuple(map(_completion, value["completions"])),
        "line_differences": {
            name: Interval(**one) for name, one in value.get("line_differences", {}).items()
        },
        "groups": tuple(_group(one) for one in value.get("groups", ())),
        "infill": _compared(value.get("infill", {})),
        "infills": tuple(map(_completion, value.get("infills", ()))),
        "line_groups": tuple(
            LineGroup(
                by=one["by"], name=one["name"], next_line=_compared(one["next_line"]),
                infill=_compared(one["infill"]),
            )
            for one in value.get("line_groups", ())
        ),
        "forgetting": _forgetting(value["forgetting"]) if value.get("forgetting") else None,
        "memorisation": _memorisation(value.get("memorisation")),
        "judgement": _judgement(value.get("judgement")),
    }  # fmt: skip
    return Evaluation(**{**value, **parts})


def _memorisation(value: dict[str, Any] | None) -> Memorisation | None:
    if value is None:
        return None
    figures = tuple(CanaryFigures(**one) for one in value["figures"])
    return Memorisation(**{**value, "figures": figures})


def _judgement(value: dict[str, Any] | None) -> Judgement | None:
    """None also for one that does not say which figures got worse: it is judged again."""
    if value is None or "worse_figures" not in value:
        return None
    lists = ("worse_on", "worse_figures", "forgets")
    tuples = {name: tuple(value.get(name, ())) for name in lists}
    return Judgement(**{**value, **tuples})


def _completion(value: dict[str, Any]) -> Completion:
    return Completion(**{**value, "names": tuple(value.get("names", ()))})


def _compared(value: dict[str, dict[str, Any]]) -> dict[str, Compared]:
    found = {}
    for name, one in value.items():
        difference = one["difference"] and Interval(**one["difference"])
        found[name] = Compared(**{**one, "difference": difference})
    return found


def _group(value: dict[str, Any]) -> GroupFigures:
    difference = value["difference"] and Interval(**value["difference"])
    return GroupFigures(**{**value, "difference": difference})


def _forgetting(value: dict[str, Any]) -> Forgetting:
    library = value["library"]
    if library is not None:
        library = LibraryFigures(**{**library, "difference": Interval(**library["difference"])})
    return Forgetting(
        library=library,
        tasks=tuple(TaskFigures(**one) for one in value["tasks"]),
        not_measured=tuple(value["not_measured"]),
    )
