"""What was measured on this machine, kept in the user's data folder between runs.

    calibration/<machine id>.json       rates; replaced as a whole
    calibration/<machine id>.jsonl      one line a run: what was predicted, what it took

The only file that imports ``platformdirs``.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import platformdirs

from repotune.events import Emit, Notice, ignore
from repotune.records import MachineRates, Outcome

FORMAT: Final = 1
NUMBERS: Final = (int, float)
OPTIONAL: Final = {"driver": str, "host_to_device_bytes_per_second": NUMBERS}
RATES: Final[dict[str, Any]] = {
    "machine_id": str, "device": str, "name": str, "torch": str,
    "matmul_flops_per_second": dict, "memory_bytes_per_second": NUMBERS,
    "launch_seconds": NUMBERS, "context_bytes": int, "probe_seconds": NUMBERS, "date": str,
}  # fmt: skip
OUTCOME: Final[dict[str, Any]] = {
    "machine_id": str, "model": str, "config": dict,
    "measured_tokens_per_second": NUMBERS, "steps": int, "date": str,
}  # fmt: skip
OUTCOME_OPTIONAL: Final = {
    "predicted_peak_bytes": int,
    "measured_peak_bytes": int,
    "predicted_tokens_per_second": NUMBERS,
}

AnyRecord = TypeVar("AnyRecord", MachineRates, Outcome)


def data_folder() -> Path:
    """Where measurements lie for this user; it need not exist."""
    return Path(platformdirs.user_data_dir("repotune", appauthor=False)) / "calibration"


def cache_folder() -> Path:
    """Where what can be made again lies for this user; it need not exist."""
    return Path(platformdirs.user_cache_dir("repotune", appauthor=False))


def write_rates(rates: MachineRates, *, emit: Emit = ignore) -> Path | None:
    """Keep ``rates`` for later plans, in the place of older ones: the whole file or none of it.

    Returns the file. A folder that cannot be written costs the measurement, not the run: None,
    and a notice.
    """
    path = data_folder() / f"{rates.machine_id}.json"
    text = json.dumps({"format": FORMAT, **asdict(rates)}, indent=2, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        emit(Notice(message=f"{path} cannot be written ({error.strerror}): nothing is kept."))
        return None
    return path


def read_rates(machine_id: str, *, emit: Emit = ignore) -> MachineRates | None:
    """What was measured on this machine, None if nothing was; a damaged file is a notice."""
    path = data_folder() / f"{machine_id}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        content = None
    rates = _record(MachineRates, content, RATES, OPTIONAL)
    if rates is None or rates.machine_id != machine_id or not _plausible(rates):
        emit(
            Notice(
                message=f"{path} is damaged or of another version of repotune and is not used: "
                "`repotune calibrate` makes it anew."
            )
        )
        return None
    return rates


def record_outcome(outcome: Outcome, *, emit: Emit = ignore) -> None:
    """Add what a run took to what is known of its machine; a folder that refuses is a notice."""
    path = data_folder() / f"{outcome.machine_id}.jsonl"
    line = json.dumps({"format": FORMAT, **asdict(outcome)}, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)
    except OSError as error:
        emit(Notice(message=f"{path} cannot be written ({error.strerror}): nothing is kept."))


def read_outcomes(machine_id: str, *, emit: Emit = ignore) -> tuple[Outcome, ...]:
    """All that was recorded of this machine, oldest first; damaged lines are left out."""
    path = data_folder() / f"{machine_id}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    found = [_outcome(line) for line in lines if line.strip()]
    damaged = sum(one is None for one in found)
    if damaged:
        emit(Notice(message=f"{path}: {damaged} of {len(found)} lines are damaged and not used."))
    return tuple(one for one in found if one is not None)


def _outcome(line: str) -> Outcome | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return _record(Outcome, content, OUTCOME, OUTCOME_OPTIONAL)


def _record(
    kind: type[AnyRecord], content: Any, required: Mapping[str, Any], optional: Mapping[str, Any]
) -> AnyRecord | None:
    """The record in ``content``, None unless each field is there and of its type."""
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        return None
    if set(content) != {field.name for field in fields(kind)}:
        return None
    for name, value in content.items():
        allowed = required.get(name, optional.get(name))
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, allowed):
            return None
    return kind(**content)


def _plausible(rates: MachineRates) -> bool:
    measured = [
        *rates.matmul_flops_per_second.values(),
        rates.memory_bytes_per_second,
        rates.launch_seconds,
    ]
    if rates.host_to_device_bytes_per_second is not None:
        measured.append(rates.host_to_device_bytes_per_second)
    numbers = all(isinstance(one, NUMBERS) and math.isfinite(one) and one > 0 for one in measured)
    return numbers and bool(rates.matmul_flops_per_second) and rates.context_bytes >= 0
