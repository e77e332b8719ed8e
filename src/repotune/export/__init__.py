"""Into other people's formats: the adapter as PEFT reads and writes it."""

from repotune.export.peft import export_adapter, load_adapter

__all__ = ["export_adapter", "load_adapter"]
