"""The plan as a whole."""

from dataclasses import replace

import pytest

from repotune.config import FineTuningConfig
from repotune.planning import (
    Workload,
    chosen_config,
    duration,
    fit,
    gpu_target,
    least_gpu_bytes,
    machine_target,
    plan,
)
from repotune.records import Machine, Range
from repotune.tables import find_gpu, find_preset, known_model

from .setups import CODELLAMA, SHAPE

GIB = 2**30
CODE = Workload(files=1000, tokens=Range(low=3.5e6, expected=3.9e6, high=4.2e6), note="Given.")


def made(gpu="RTX 3060", config=None, **options):
    target = gpu_target(find_gpu(gpu).gpu)
    return plan(
        **{
            "model": CODELLAMA.name, "shape": SHAPE, "download_bytes": CODELLAMA.download_bytes,
            "target": target, "workload": CODE,
            "config": config or chosen_config(
                SHAPE, target, FineTuningConfig(), find_preset(target.gpu.name)
            ),
            **options,
        }
    )  # fmt: skip


def test_the_preset_is_planned_where_nobody_chose():
    one = made()
    assert one.verdict == "fits"
    assert (one.config["batch_size"], one.config["max_seq_length"]) == (1, 1024)
    assert one.tokens_in_flight == 1024
    assert len(one.policy.layers) == 32


def test_every_range_is_in_order_and_high_hours_are_at_most_three_times_low():
    for gpu in ("RTX 3060", "RTX 4090", "T4", "B200"):
        one = made(gpu, price_per_kwh=0.2)
        ranges = [
            one.peak_vram_gib, one.reserved_gib, one.host_ram_gib, one.hours, one.hours_per_epoch,
            one.tokens_per_second, one.electricity_kwh, one.electricity, *one.disk_gib.values(),
        ]  # fmt: skip
        assert all(0 <= each.low <= each.expected <= each.high for each in ranges)
        assert one.hours.high <= 3 * one.hours.low


def test_the_parts_of_the_memory_add_up_to_the_peak():
    one = made()
    assert sum(part.bytes for part in one.memory) / GIB == pytest.approx(one.peak_vram_gib.expected)
    assert one.peak_vram_gib.expected < one.memory_gib
    assert one.memory[-1].name == "CUDA context"


def test_the_seconds_of_a_step_add_up_to_its_speed():
    one = made()
    tokens = one.config["max_seq_length"] * 16
    assert tokens / sum(one.seconds.values()) == pytest.approx(one.tokens_per_second.expected)


def test_what_does_not_fit_is_planned_as_the_nearest_that_does():
    one = made(config=FineTuningConfig(batch_size=16, use_4bit=False))
    assert (one.verdict, one.policy) == ("does_not_fit", None)
    assert "GiB short" in one.reason
    assert one.nearest.changes["use_4bit"] is True
    assert one.nearest.hours == one.hours
    assert one.nearest.peak_vram_gib.expected < one.memory_gib
    assert duration(one.hours) in one.nearest.reason


def test_twice_the_code_takes_twice_the_training():
    double = replace(CODE, tokens=Range(low=7e6, expected=7.8e6, high=8.4e6))
    once, twice = made().hours_by_stage, made(workload=double).hours_by_stage
    assert twice["training"].expected == pytest.approx(2 * once["training"].expected, rel=0.01)
    # What is written, and the standard library, are as much as before.
    assert once["evaluation"].expected < twice["evaluation"].expected
    assert twice["evaluation"].expected < 2 * once["evaluation"].expected


def test_epochs_steps_and_evaluation_count():
    config = FineTuningConfig.for_gpu("RTX 3060")
    base = made(config=config)
    three = made(config=config.merged({"num_train_epochs": 3.0}))
    assert three.steps == pytest.approx(3 * base.steps, abs=2)
    assert three.hours_per_epoch == base.hours_per_epoch
    few = made(config=config.merged({"max_steps": 10}))
    assert few.steps == 10
    assert few.hours_by_stage["training"].expected < 0.1 * base.hours_by_stage["training"].expected
    silent = made(config=config.merged({"evaluate": False}))
    assert silent.hours_by_stage["evaluation"] == Range(low=0.0, expected=0.0, high=0.0)
    assert silent.hours.expected == pytest.approx(
        base.hours.expected - base.hours_by_stage["evaluation"].expected
    )


def test_disk_by_item():
    disk = made().disk_gib
    assert disk["download"].expected == pytest.approx(12.55, abs=0.01)
    assert disk["quantised_weights"].expected == pytest.approx(0.5159 * 6.476e9 / 2**30, rel=1e-3)
    # 40 M parameters: weights and two moments in fp32, three kept
    assert disk["checkpoints"].expected == pytest.approx(3 * 39.98e6 * 12 / GIB, rel=0.01)
    items = [item.expected for name, item in disk.items() if name != "total"]
    assert sum(items) == pytest.approx(disk["total"].expected)


def test_the_least_memory_is_where_the_planner_begins_to_say_yes():
    """With a byte less than its share of it, no settings of `tune` fit."""
    least = least_gpu_bytes(SHAPE, context_bytes=GIB, host_free_bytes=10 * GIB) - GIB
    smallest = FineTuningConfig(batch_size=1, max_seq_length=256)
    target = replace(gpu_target(find_gpu("RTX 3060").gpu), host_free_bytes=10 * GIB)
    assert fit(SHAPE, smallest, replace(target, free_bytes=least + 2)).verdict == "tight"
    assert fit(SHAPE, smallest, replace(target, free_bytes=least - 2)).verdict == "does_not_fit"
    # Without room on the host, what layers save stays on the card.
    alone = least_gpu_bytes(SHAPE, context_bytes=GIB, host_free_bytes=0) - GIB
    assert alone > least


def test_settings_that_are_tight_are_better_than_none():
    target = gpu_target(find_gpu("RTX 3060").gpu)
    least = least_gpu_bytes(SHAPE, context_bytes=0, host_free_bytes=target.host_free_bytes)
    small = replace(target, free_bytes=int(least * 1.02))
    chosen = chosen_config(SHAPE, small, FineTuningConfig(), find_preset("RTX 3060"))
    assert fit(SHAPE, chosen, small).verdict == "tight"
    nowhere = replace(target, free_bytes=GIB)
    preset = find_preset("RTX 3060")
    chosen = chosen_config(SHAPE, nowhere, FineTuningConfig(), preset)
    assert chosen.max_seq_length == preset.max_seq_length


@pytest.mark.parametrize(
    ("gpu", "precision"),
    [("RTX 3060", "bf16"), ("T4", "fp16"), ("V100", "fp16"), ("P100 PCIe", "fp16")],
)
def test_the_precision_is_that_of_the_card(gpu, precision):
    assert made(gpu).precision == precision
    assert made(gpu, FineTuningConfig(precision="fp32")).precision == "fp32"


def test_what_is_projected_is_said():
    assert any("projected" in note for note in made().notes)
    assert made().notes[0] == "Given."


def test_on_a_cpu_the_memory_is_that_of_the_host():
    machine = Machine(
        platform="", python="", torch="", cpu="CPU", cores=2, ram_bytes=16 * GIB,
        ram_free_bytes=8 * GIB, gpu=None, gpu_free_bytes=0, bf16=True,
    )  # fmt: skip
    starter = known_model("starter")
    one = made(
        model="starter", shape=starter.shape, download_bytes=0,
        target=machine_target(machine, None, None), config=FineTuningConfig(),
    )  # fmt: skip
    assert (one.on_gpu, one.verdict, one.peak_vram_gib.high) == (False, "fits", 0)
    assert one.host_ram_gib.expected > one.reserved_gib.expected
    assert one.disk_gib["download"].expected == 0
    # A processor knows no 4-bit weights, whatever the default says.
    assert (one.config["use_4bit"], one.disk_gib["quantised_weights"].expected) == (False, 0)
    assert one.precision == "bf16"
