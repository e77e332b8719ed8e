"""What slows the computer down, as its sensors say."""

from types import SimpleNamespace

import psutil
import pynvml
import pytest

from repotune.machine import slowed_by


def battery(monkeypatch, plugged):
    state = None if plugged is None else SimpleNamespace(percent=50, power_plugged=plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: state, raising=False)


def gpus(monkeypatch, *reasons):
    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, name, lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(reasons))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda index: reasons[index]
    )


@pytest.mark.parametrize(("plugged", "is_slow"), [(None, False), (True, False), (False, True)])
def test_a_laptop_on_battery_is_said(plugged, is_slow, monkeypatch):
    battery(monkeypatch, plugged)
    assert bool(slowed_by(on_gpu=False)) == is_slow
    assert all("battery" in sentence for sentence in slowed_by(on_gpu=False))


@pytest.mark.parametrize(
    ("reasons", "is_slow"),
    [
        ((0,), False),
        ((pynvml.nvmlClocksThrottleReasonSwPowerCap,), False),  # usual under load
        ((pynvml.nvmlClocksThrottleReasonGpuIdle,), False),
        ((0, pynvml.nvmlClocksThrottleReasonHwThermalSlowdown), True),
        ((pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,), True),
        ((pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,), True),
    ],
)
def test_a_hot_gpu_is_said_and_one_at_its_power_limit_is_not(reasons, is_slow, monkeypatch):
    battery(monkeypatch, None)
    gpus(monkeypatch, *reasons)
    assert bool(slowed_by(on_gpu=True)) == is_slow
    assert slowed_by(on_gpu=False) == ()


def test_a_driver_that_does_not_tell_is_no_reason_to_worry(monkeypatch):
    battery(monkeypatch, None)

    def fails():
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    assert slowed_by(on_gpu=True) == ()
