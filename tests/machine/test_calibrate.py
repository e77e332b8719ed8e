"""The probe's rates agree with a plain timing of the same work, and it is short."""

import time

import torch

from repotune.events import Notice
from repotune.machine import ensure_rates, read_calibration, read_rates


def best_seconds(action) -> float:
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def test_rates_of_the_cpu_are_those_of_a_plain_timing(monkeypatch, tmp_path) -> None:
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert read_calibration("cpu", "fp32") is None

    said = []
    rates = ensure_rates("cpu", emit=said.append)
    assert [type(one) for one in said] == [Notice]
    assert "measured once" in said[0].message
    assert rates.probe_seconds < 10
    assert (rates.device, rates.driver, rates.context_bytes) == ("cpu", None, 0)
    assert rates.host_to_device_bytes_per_second is None
    left, right = torch.ones(512, 576), torch.ones(576, 3072)
    peak = 2 * 512 * 576 * 3072 / best_seconds(lambda: left @ right)
    # Means against the best of twenty; other programs may take half of the machine meanwhile.
    assert 0.2 * peak < rates.matmul_flops_per_second["fp32"] < 2 * peak
    source, target = torch.ones(2**25), torch.empty(2**25)
    fastest = 2 * 2**27 / best_seconds(lambda: target.copy_(source))
    assert 0.2 * fastest < rates.memory_bytes_per_second < 2 * fastest
    assert 1e-8 < rates.launch_seconds < 1e-3

    assert read_rates(rates.machine_id) == rates
    assert ensure_rates("cpu", emit=said.append) == rates
    assert len(said) == 1
    calibration = read_calibration("cpu", "fp32")
    assert calibration is not None
    assert calibration.matmul_flops == rates.matmul_flops_per_second["fp32"]
    assert calibration.bandwidth == rates.memory_bytes_per_second
