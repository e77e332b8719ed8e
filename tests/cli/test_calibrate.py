"""`repotune calibrate`: measured, kept, shown."""

import json
from pathlib import Path

import pytest

from repotune.cli import main
from repotune.cli.calibrate import rates_text
from repotune.machine import data_folder, read_rates
from repotune.records import MachineRates


def test_what_is_shown_is_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["calibrate", "--json"]) == 0
    said = capsys.readouterr()
    shown = json.loads(said.out)
    assert shown["probe_seconds"] < 30
    assert read_rates(shown["machine_id"]) == MachineRates(**shown)
    assert str(data_folder() / shown["machine_id"]) in said.err


def test_people_get_figures_with_their_units() -> None:
    rates = MachineRates(
        machine_id="0123456789ab",
        device="cuda",
        name="NVIDIA GeForce RTX 3060",
        driver="580.65.06",
        torch="2.13.0+cu130",
        matmul_flops_per_second={"bf16": 25.1e12},
        memory_bytes_per_second=330e9,
        host_to_device_bytes_per_second=12.1e9,
        launch_seconds=4.5e-6,
        context_bytes=2**29,
        probe_seconds=14.0,
        date="2026-11-25T10:00:00+00:00",
    )
    lines = [line.split() for line in rates_text(rates).splitlines()]
    assert lines[1:] == [
        ["Matmul", "bf16", "25.10", "TFLOP/s"],
        ["Memory", "330.0", "GB/s"],
        ["Host", "to", "GPU", "12.1", "GB/s"],
        ["Launch", "4.5", "µs"],
        ["Context", "0.50", "GiB"],
    ]
