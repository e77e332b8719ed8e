"""What slows this computer down at the moment."""

from __future__ import annotations

from repotune.machine.driver import is_throttled
from repotune.machine.probe import on_battery


def slowed_by(*, on_gpu: bool) -> tuple[str, ...]:
    """A sentence for each thing; none if all is well, or the system does not tell."""
    found = []
    if on_battery():
        found.append(
            "The computer runs on battery, which makes it slow and may end the run: plug it in."
        )
    if on_gpu and is_throttled():
        found.append(
            "The GPU slows itself down because of heat or too little power: look after its fans "
            "and its air, and do not run another load on it."
        )
    return tuple(found)
