"""The page's four presets are as they are, and every other GPU that can has one."""

import pytest

from repotune.config import FineTuningConfig
from repotune.errors import DoesNotFit, UsageError
from repotune.tables import find_preset, gpus, presets

PAGE = {
    "RTX 3060": (1, 16, 1024, True),
    "RTX 4060 Ti 16GB": (2, 8, 1536, True),
    "RTX 3090": (4, 4, 2048, True),
    "RTX 4090": (4, 4, 2048, True),
    "A100 PCIe 40GB": (8, 2, 2048, False),
    "A100 SXM4 40GB": (8, 2, 2048, False),
    "A100 PCIe 80GB": (8, 2, 2048, False),
    "A100 SXM4 80GB": (8, 2, 2048, False),
}


def settings(one):
    return (
        one.batch_size, one.gradient_accumulation_steps, one.max_seq_length, one.use_4bit
    )  # fmt: skip


def test_the_pages_presets_are_exactly_its_own():
    assert {one.gpu: settings(one) for one in presets() if one.from_page} == PAGE


def test_every_preset_is_of_a_known_gpu_and_has_sixteen_rows_a_step():
    names = [one.gpu for one in presets()]
    assert len(names) == len(set(names))
    assert set(names) <= {gpu.name for gpu in gpus()}
    for one in presets():
        assert one.batch_size * one.gradient_accumulation_steps == 16
    assert {gpu.name for gpu in gpus() if find_preset(gpu.name) is None} == {
        gpu.name for gpu in gpus() if gpu.memory_gb < 8
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RTX 3060", PAGE["RTX 3060"]),
        ("NVIDIA GeForce RTX 3060", PAGE["RTX 3060"]),
        ("rtx 4060 ti 16gb", PAGE["RTX 4060 Ti 16GB"]),
        ("3090", PAGE["RTX 3090"]),
        ("RTX 4090", PAGE["RTX 4090"]),
        ("A100", PAGE["A100 PCIe 40GB"]),
    ],
)
def test_a_configuration_for_a_gpu(name, expected):
    config = FineTuningConfig.for_gpu(name)
    assert settings(config) == expected
    assert config.lora_r == FineTuningConfig().lora_r


def test_a_gpu_that_nobody_knows_or_that_is_too_small():
    with pytest.raises(UsageError, match="RTX 3060"):
        FineTuningConfig.for_gpu("RTX 306")
    with pytest.raises(DoesNotFit, match="--all-models"):
        FineTuningConfig.for_gpu("RTX 4050 Laptop")
