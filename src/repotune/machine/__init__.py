"""What this computer is."""

from repotune.machine.probe import probe

__all__ = ["probe"]
