"""The time model against speeds measured on one H100, and against counts of operations."""

from dataclasses import replace

import pytest

from repotune.planning.rates import cpu_rates, gpu_rates
from repotune.planning.speed import (
    ATTENTION_EDGE,
    attention_flops,
    attention_rate,
    is_graphed,
    matmul_flops,
    step_seconds,
)
from repotune.tables import find_gpu, gpus, known_model

from .setups import LORA, MEASURED_H100, SHAPE, policy, setup

MEASURED = [
    (1, 512, "all", 11_716),
    (1, 1024, "all", 14_884),
    (1, 2048, "all", 16_570),
    (1, 8192, "outputs", 12_289),
    (4, 2048, "outputs", 14_312),
    (4, 2048, "attention", 15_460),
    (4, 2048, "all", 18_265),
]
"""Tokens a second of the engine at the CodeLlama-7B shape, 2026-11-26; the first three replayed."""
UNGRAPHED = replace(LORA, dropout=0.01)
"""With dropout the engine records no graph."""


def speed(tokens, saving, rates, *, lora=LORA, length=2048, offloaded=0):
    step = step_seconds(
        setup(tokens, lora=lora), policy(saving, offloaded=offloaded), rates, row_tokens=length
    )
    return tokens / (step.micro_batch + step.optimizer)


@pytest.mark.parametrize(("batch", "length", "saving", "measured"), MEASURED)
def test_with_measured_rates_it_is_what_was_measured(batch, length, saving, measured):
    ours = speed(batch * length, saving, MEASURED_H100, length=length)
    assert ours == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(("batch", "length", "saving", "measured"), MEASURED)
def test_from_the_table_the_truth_is_between_low_and_high(batch, length, saving, measured):
    rates = gpu_rates(find_gpu("H100 SXM5").gpu, None)
    slow, fast = (
        speed(batch * length, saving, one, length=length) for one in (rates.slow, rates.fast)
    )
    assert slow < measured < fast


def test_the_starter_on_two_cores_is_between_low_and_high():
    starter = known_model("starter").shape
    rates = cpu_rates(2, bf16=True, calibration=None)
    one = setup(512, shape=starter, device="cpu", use_4bit=False)
    slow, expected, fast = (
        512 / step_seconds(one, policy("all", layers=30), each, row_tokens=512).micro_batch
        for each in (rates.slow, rates.expected, rates.fast)
    )
    assert slow < 690 < fast  # an EPYC of the fifth generation, bf16
    assert expected == pytest.approx(690, rel=0.15)


@pytest.mark.parametrize("gpu", gpus(), ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("tokens", [512, 8192])
def test_high_is_at_most_two_and_a_half_times_low(gpu, tokens):
    rates = gpu_rates(gpu, None)
    for lora in (LORA, UNGRAPHED):
        slow, fast = (speed(tokens, "input", one, lora=lora) for one in (rates.slow, rates.fast))
        assert fast < 2.5 * slow


@pytest.mark.parametrize(
    ("saving", "gflop"), [("all", 28.5), ("attention", 34.3), ("outputs", 37.6)]
)
def test_flops_per_token_are_those_counted_by_hand(saving, gflop):
    # 32 layers of 202.4 M parameters, a head of 0.131 B, LoRA of 40 M; 2,048 tokens, causal
    one, of = setup(2048), policy(saving)
    edge = 4 * 4096 * ATTENTION_EDGE * 32 * 3.5  # what tiles compute beyond the triangle
    ours = matmul_flops(one, of) + attention_flops(one, of, 2048) - edge
    assert ours / 1e9 == pytest.approx(gflop, abs=0.1)


def test_saving_more_is_faster_and_offloading_is_free_behind_a_fast_link():
    speeds = [speed(8192, one, MEASURED_H100) for one in ("input", "outputs", "attention", "all")]
    assert speeds == sorted(speeds)
    kept, away = (speed(8192, "outputs", MEASURED_H100, offloaded=count) for count in (0, 32))
    assert away == pytest.approx(kept, rel=0.01)
    slow_link = replace(MEASURED_H100, host_to_device=2e9)
    assert speed(8192, "outputs", slow_link, offloaded=32) < 0.2 * kept


def test_small_passes_are_replayed_and_wait_for_no_host():
    one = policy("all")
    assert is_graphed(setup(4096), one)
    assert not is_graphed(setup(4097), one)
    narrow = replace(SHAPE, hidden_size=1024)
    assert is_graphed(setup(4 * 4096, shape=narrow), one)
    assert not is_graphed(setup(4 * 4096 + 1, shape=narrow), one)
    assert not is_graphed(setup(1024, lora=UNGRAPHED), one)
    assert not is_graphed(setup(1024), policy("all", offloaded=1))
    slow_host = replace(MEASURED_H100, operation_seconds=1e-3)
    assert speed(1024, "all", slow_host) == speed(1024, "all", MEASURED_H100)
    assert speed(1024, "all", slow_host, lora=UNGRAPHED) < 400


def test_a_window_limits_what_attention_computes():
    def seen(one):
        return attention_flops(one, policy("all"), 8192) / (4 * 4096 * 32 * 3.5) - ATTENTION_EDGE

    windowed = replace(SHAPE, sliding_window=1024)
    assert seen(setup(8192)) == pytest.approx(4096)
    assert seen(setup(8192, shape=windowed)) == pytest.approx(1024)
    assert seen(replace(setup(8192), documents=16)) == pytest.approx(512)


def test_flash_attention_takes_longer_than_cudnns():
    grouped = replace(SHAPE, num_key_value_heads=8)
    rates = [attention_rate(setup(8192, shape=one), MEASURED_H100) for one in (SHAPE, grouped)]
    assert rates[1] / rates[0] == pytest.approx(0.57)
