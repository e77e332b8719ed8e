"""Writes the table of presets: the page's as they are, the others by the planner."""

from __future__ import annotations

import sys
from pathlib import Path

from repotune.config import FineTuningConfig
from repotune.job import GPU_MODEL
from repotune.planning import fastest, gpu_target
from repotune.records import Gpu, Preset
from repotune.tables import gpus, known_model, page_claims

HEAD = """\
# Settings for CodeLlama-7B on each GPU that can train it; written by `make docs`.
#
# from_page   the requirements page says so; the others are the planner's choice: the longest rows
#             that fit, then the largest batch that costs no speed, with 16 rows a step
"""


def preset_table() -> str:
    """The table as TOML: a preset for each GPU on which CodeLlama-7B fits."""
    found = [preset for gpu in gpus() if (preset := _preset(gpu)) is not None]
    return HEAD + "".join(_entry(preset) for preset in found)


def _preset(gpu: Gpu) -> Preset | None:
    for claim in page_claims():
        if claim.topic == "preset" and gpu.name in claim.subject["gpus"]:
            return Preset(
                gpu=gpu.name,
                batch_size=claim.subject["batch_size"],
                gradient_accumulation_steps=claim.subject["gradient_accumulation_steps"],
                max_seq_length=claim.subject["max_seq_length"],
                use_4bit=claim.subject["use_4bit"],
                from_page=True,
            )
    model = known_model(GPU_MODEL)
    assert model is not None
    config = fastest(model.shape, gpu_target(gpu), FineTuningConfig())
    if config is None:
        return None
    return Preset(
        gpu=gpu.name,
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_seq_length=config.max_seq_length,
        use_4bit=config.use_4bit,
        from_page=False,
    )


def _entry(preset: Preset) -> str:
    return f"""
[[preset]]
gpu = "{preset.gpu}"
batch_size = {preset.batch_size}
gradient_accumulation_steps = {preset.gradient_accumulation_steps}
max_seq_length = {preset.max_seq_length}
use_4bit = {str(preset.use_4bit).lower()}
from_page = {str(preset.from_page).lower()}
"""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(preset_table(), encoding="utf-8", newline="\n")
