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
    Completion,
    Evaluation,
    GroupFigures,
    Interval,
    Judgement,
    Memorisation,
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
        "completions": tuple(
            Completion(**{**one, "names": tuple(one.get("names", ()))})
            for one in value["completions"]
        ),
        "line_differences": {
            name: Interval(**one) for name, one in value.get("line_differences", {}).items()
        },
        "groups": tuple(_group(one) for one in value.get("groups", ())),
    }
    if value.get("memorisation"):
        said = value["memorisation"]
        of_canaries = tuple(CanaryFigures(**one) for one in said["figures"])
        parts["memorisation"] = Memorisation(**{**said, "figures": of_canaries})
    if value.get("judgement"):
        judgement = value["judgement"]
        parts["judgement"] = Judgement(**{**judgement, "worse_on": tuple(judgement["worse_on"])})
    return Evaluation(**{**value, **parts})


def _group(value: dict[str, Any]) -> GroupFigures:
    difference = value["difference"] and Interval(**value["difference"])
    return GroupFigures(**{**value, "difference": difference})
