"""Which machine a measurement is of: the hardware, and what drives it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from repotune.machine.driver import ask_driver
from repotune.machine.probe import cpu_name, usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A device with its driver and PyTorch; measurements do not outlive a change of these."""

    machine_id: str
    name: str
    driver: str | None


def identify(device: Literal["cpu", "cuda"]) -> Identity:
    """Whom measurements on ``device`` belong to. Imports torch."""
    import torch

    if device == "cpu":
        name, unit, driver = cpu_name(), f"{usable_cores()} cores", None
    else:
        properties = torch.cuda.get_device_properties(0)
        facts = ask_driver()
        name, unit = properties.name, str(properties.uuid)
        driver = facts.version if facts else None
    return Identity(
        machine_id=machine_id(name, unit, driver or "", torch.__version__),
        name=name,
        driver=driver,
    )


def machine_id(name: str, unit: str, driver: str, torch: str) -> str:
    """Twelve hexadecimal digits of a hash, so that file names tell nobody which card it is."""
    text = "\n".join((name, unit, driver, torch))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
