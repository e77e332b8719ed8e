"""Which configurations fit: more memory is never worse, and the smallest that fits is found."""

from dataclasses import replace

import pytest

from repotune.config import FineTuningConfig
from repotune.planning import fastest, fit, gpu_target, machine_target
from repotune.planning.fit import nearest, tokens_per_second
from repotune.planning.memory import offloaded_bytes
from repotune.planning.policy import LEVELS
from repotune.records import Machine
from repotune.tables import find_gpu, known_model

from .setups import SHAPE

GIB = 2**30
DEFAULT = FineTuningConfig()
T4_LIKE = gpu_target(find_gpu("RTX 4090").gpu)


def target(free_gib, *, host_gib=0):
    return replace(T4_LIKE, free_bytes=int(free_gib * GIB), host_free_bytes=host_gib * GIB)


def test_more_memory_is_never_slower_and_never_refused():
    speeds, verdicts = [], []
    for free in [*(n / 2 for n in range(8, 80)), 80]:
        one = fit(SHAPE, DEFAULT, target(free))
        verdicts.append(one.verdict)
        speeds.append(tokens_per_second(one, DEFAULT, target(free)) if one.policy else 0.0)
    assert speeds == sorted(speeds)
    assert speeds[0] == 0.0 < speeds[-1]
    order = ["does_not_fit", "tight", "fits"]
    assert [order.index(one) for one in verdicts] == sorted(order.index(one) for one in verdicts)
    assert set(verdicts) == set(order)


def test_the_plan_stays_within_what_is_free():
    for free in (10, 14, 20, 30, 60):
        one = fit(SHAPE, DEFAULT, target(free))
        assert one.reserved.expected <= 0.92 * free
        assert one.reserved.low < one.reserved.expected < one.reserved.high
        assert one.peak.expected > one.reserved.expected


def test_a_deterministic_run_is_planned_with_its_own_attention():
    row = DEFAULT.merged({"batch_size": 1, "gradient_accumulation_steps": 8})
    exact = row.merged({"deterministic": True})
    fused = replace(target(40), fused=True)
    usual, same_bits = fit(SHAPE, row, fused), fit(SHAPE, exact, fused)
    assert same_bits.setup.deterministic
    assert same_bits.reserved.expected > usual.reserved.expected
    plain = replace(fused, fused=False)
    fast, slow = (tokens_per_second(fit(SHAPE, one, plain), one, plain) for one in (row, exact))
    assert slow < 0.8 * fast  # hundreds of launches for each layer


def test_host_memory_makes_it_fit_on_less():
    def saving(one):
        return {layer.saving for layer in one.policy.layers}

    alone, helped = fit(SHAPE, DEFAULT, target(8)), fit(SHAPE, DEFAULT, target(8, host_gib=32))
    assert alone.verdict == "does_not_fit"
    assert helped.verdict != "does_not_fit"
    assert any(layer.offloaded for layer in helped.policy.layers)
    # Where "input" would do, moving attention's output away is better than computing it again.
    assert saving(fit(SHAPE, DEFAULT, target(10.5))) == {"input", "outputs"}
    offloaded = fit(SHAPE, DEFAULT, target(10.5, host_gib=32))
    assert saving(offloaded) == {"outputs"}
    assert not offloaded.policy.layers[-1].offloaded
    # At most half of it is pinned.
    for host_gib in (1, 2, 4, 8):
        one = fit(SHAPE, DEFAULT, target(9.5, host_gib=host_gib))
        assert offloaded_bytes(one.setup, one.policy) <= host_gib * GIB / 2


def test_the_nearest_keeps_the_rows_of_a_step_and_shortens_them_last():
    config, changes, one = nearest(SHAPE, target(8), DEFAULT)
    assert changes == {"batch_size": 2, "gradient_accumulation_steps": 8}
    assert one.verdict != "does_not_fit"
    assert config.batch_size * config.gradient_accumulation_steps == 16
    in_16_bits = FineTuningConfig(use_4bit=False, batch_size=1, gradient_accumulation_steps=16)
    assert nearest(SHAPE, target(8), in_16_bits)[1] == {"use_4bit": True}
    whole = FineTuningConfig(gradient_checkpointing=False)
    assert nearest(SHAPE, target(14), whole)[1] == {"gradient_checkpointing": True}
    assert nearest(SHAPE, target(5.7), DEFAULT)[1]["max_seq_length"] < 2048
    assert nearest(SHAPE, target(3), DEFAULT) is None


def test_nothing_smaller_is_taken_than_what_just_fits():
    _, changes, _ = nearest(SHAPE, target(8), DEFAULT)
    larger = DEFAULT.merged({"batch_size": 4, "gradient_accumulation_steps": 4})
    assert changes["batch_size"] == 2
    assert fit(SHAPE, larger, target(8)).verdict == "does_not_fit"


def test_the_fastest_is_16_bit_where_there_is_room_and_has_16_rows_a_step():
    large = fastest(SHAPE, target(75), DEFAULT)
    small = fastest(SHAPE, target(11), DEFAULT)
    assert (large.use_4bit, large.max_seq_length) == (False, 2048)
    assert (small.use_4bit, small.max_seq_length) == (True, 2048)
    assert large.batch_size > small.batch_size
    for config in (large, small):
        assert config.batch_size * config.gradient_accumulation_steps == 16
    assert fastest(SHAPE, target(3), DEFAULT) is None


@pytest.mark.parametrize("saving", LEVELS)
def test_without_checkpointing_everything_is_saved_or_it_does_not_fit(saving):
    config = FineTuningConfig(gradient_checkpointing=False)
    assert fit(SHAPE, config, target(20)).verdict == "does_not_fit"
    assert {one.saving for one in fit(SHAPE, config, target(40)).policy.layers} == {"all"}


@pytest.mark.parametrize("gpu", ["T4", "RTX 4090"])
@pytest.mark.parametrize(("precision", "itemsize"), [("auto", 2), ("fp16", 2), ("fp32", 4)])
def test_a_gpu_computes_in_16_bits_with_or_without_bf16(gpu, precision, itemsize):
    config = DEFAULT.merged({"precision": precision})
    one = fit(SHAPE, config, gpu_target(find_gpu(gpu).gpu))
    assert one.setup.itemsize == itemsize


def test_a_cpu_has_one_row_in_flight_and_no_4_bits():
    machine = Machine(
        platform="", python="", torch="", cpu="CPU", cores=2, ram_bytes=16 * GIB,
        ram_free_bytes=8 * GIB, gpu=None, gpu_free_bytes=0, bf16=True,
    )  # fmt: skip
    starter = known_model("starter").shape
    here = machine_target(machine, None, None)
    one = fit(starter, DEFAULT, here)
    assert (one.verdict, one.setup.tokens, one.setup.itemsize) == ("fits", 2048, 2)
    assert not one.setup.use_4bit
    assert fit(starter, DEFAULT.merged({"precision": "fp32"}), here).setup.itemsize == 4
    assert fit(starter, DEFAULT.merged({"precision": "fp16"}), here).setup.itemsize == 2
    assert fit(SHAPE, DEFAULT, here).verdict == "does_not_fit"
