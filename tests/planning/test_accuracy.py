"""The plan against what an H100 showed for 51 settings, as ``benchmarks/README.md`` says it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"


@pytest.mark.parametrize(
    ("measured", "memory_95", "memory_worst", "time_worst"),
    [("accuracy-h100.jsonl", 5, 10, 15), ("time-h100.jsonl", 5, 10, 10)],
)
def test_the_errors_are_within_their_bounds(measured, memory_95, memory_worst, time_worst):
    calibration = RESULTS / "calibration-h100.json"
    command = [sys.executable, BENCHMARKS / "plan_accuracy.py", RESULTS / measured, calibration]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers = [float(one) for one in re.findall(r"([\d.]+)%", text.splitlines()[-1])]
    assert numbers[0] <= memory_95
    assert numbers[1] <= memory_worst
    assert numbers[3] <= time_worst


def test_the_planner_has_the_constants_that_were_fitted():
    command = [
        sys.executable, BENCHMARKS / "plan_accuracy.py", RESULTS / "accuracy-h100.jsonl",
        RESULTS / "calibration-h100.json",
    ]  # fmt: skip
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fitted, planned = re.findall(r"(\d+) MiB and ([\d.]+\d)", text)
    assert fitted == planned
