"""What was measured is found again on the same machine, and nothing that is damaged is believed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repotune.events import Event, Notice
from repotune.machine import (
    data_folder,
    for_precision,
    read_outcomes,
    read_rates,
    record_outcome,
    write_rates,
)
from repotune.machine.identity import machine_id
from repotune.records import MachineRates, Outcome

RATES = MachineRates(
    machine_id="0123456789ab",
    device="cuda",
    name="NVIDIA GeForce RTX 3060",
    driver="580.65.06",
    torch="2.13.0+cu130",
    matmul_flops_per_second={"bf16": 25.1e12, "fp16": 26e12, "fp32": 9e12},
    memory_bytes_per_second=330e9,
    host_to_device_bytes_per_second=12.1e9,
    launch_seconds=4.5e-6,
    context_bytes=380_000_000,
    probe_seconds=14.0,
    date="2026-11-25T10:00:00+00:00",
)
OUTCOME = Outcome(
    machine_id="0123456789ab",
    model="codellama/CodeLlama-7b-hf",
    config={"batch_size": 1, "max_seq_length": 1024, "use_4bit": True},
    predicted_peak_bytes=5_000_000_000,
    measured_peak_bytes=5_100_000_000,
    predicted_tokens_per_second=None,
    measured_tokens_per_second=810.5,
    steps=100,
    date="2026-11-25T11:00:00+00:00",
)


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_rates_are_found_again_and_replaced_as_a_whole() -> None:
    assert read_rates(RATES.machine_id) is None
    path = write_rates(RATES)
    assert read_rates(RATES.machine_id) == RATES
    faster = replace(RATES, memory_bytes_per_second=340e9, host_to_device_bytes_per_second=None)
    assert write_rates(faster) == path
    assert read_rates(RATES.machine_id) == faster
    assert [one.name for one in data_folder().iterdir()] == ["0123456789ab.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 0},
        {"machine_id": "of another"},
        {"memory_bytes_per_second": 0.0},
        {"memory_bytes_per_second": "fast"},
        {"matmul_flops_per_second": {}},
        {"matmul_flops_per_second": {"bf16": "fast"}},
        {"launch_seconds": None},
        {"context_bytes": True},
        {"surplus": 1},
    ],
)
def test_a_file_that_is_damaged_or_of_another_version_is_a_notice(changes: Any) -> None:
    path = write_rates(RATES)
    assert path is not None
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    said: list[Event] = []
    assert read_rates(RATES.machine_id, emit=said.append) is None
    assert len(said) == 1
    assert isinstance(said[0], Notice)
    assert "repotune calibrate" in said[0].message


def test_a_file_that_was_cut_off_is_a_notice() -> None:
    path = write_rates(RATES)
    assert path is not None
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")
    said: list[Event] = []
    assert read_rates(RATES.machine_id, emit=said.append) is None
    assert len(said) == 1


def test_a_folder_that_refuses_costs_a_notice_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "repotune").write_text("a file where the folder should be")
    (tmp_path / "Library").write_text("the same on macOS")
    said: list[Event] = []
    assert write_rates(RATES, emit=said.append) is None
    record_outcome(OUTCOME, emit=said.append)
    assert [isinstance(one, Notice) for one in said] == [True, True]
    assert read_outcomes(OUTCOME.machine_id) == ()


def test_outcomes_are_added_and_damaged_lines_left_out() -> None:
    assert read_outcomes(OUTCOME.machine_id) == ()
    record_outcome(OUTCOME)
    path = data_folder() / "0123456789ab.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"format": 1, "model":\n[]\n')
    later = replace(OUTCOME, predicted_tokens_per_second=800.0, steps=200)
    record_outcome(later)
    said: list[Event] = []
    assert read_outcomes(OUTCOME.machine_id, emit=said.append) == (OUTCOME, later)
    assert isinstance(said[0], Notice)
    assert "2 of 4 lines" in said[0].message
    assert read_outcomes("of another") == ()


def test_a_plan_gets_the_rate_of_its_precision() -> None:
    calibration = for_precision(RATES, "fp16")
    assert calibration is not None
    assert calibration.matmul_flops == 26e12
    assert calibration.host_to_device == 12.1e9
    assert for_precision(replace(RATES, matmul_flops_per_second={"fp32": 9e12}), "bf16") is None


def test_a_machine_is_another_one_with_another_driver_or_torch() -> None:
    same = machine_id("RTX 3060", "uuid", "580", "2.13.0")
    assert machine_id("RTX 3060", "uuid", "580", "2.13.0") == same
    others = {
        machine_id("RTX 3060", "uuid2", "580", "2.13.0"),
        machine_id("RTX 3060", "uuid", "590", "2.13.0"),
        machine_id("RTX 3060", "uuid", "580", "2.14.0"),
    }
    assert len(others | {same}) == 4
