"""An evaluation as the file ``evaluation.json``, under the names of ``records.Evaluation``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from repotune.errors import RunError
from repotune.records import Completion, Evaluation, Interval
from repotune.runs import write_json_atomic


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation`` as JSON; ``path`` holds the old one or the new one, never a part.

    Raises DiskFull or RunError.
    """
    write_json_atomic(path, asdict(evaluation))


def read_evaluation(path: Path) -> Evaluation:
    """What ``write_evaluation`` wrote. Raises RunError if it is missing or damaged."""
    again = "make it again with `repotune evaluate RUN`"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        value["difference"] = Interval(**value["difference"])
        value["completions"] = tuple(Completion(**one) for one in value["completions"])
        return Evaluation(**value)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): {again}.") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): {again}.") from None
