"""The stages of a run, against a run that was timed and against each other."""

from dataclasses import replace

import pytest

from repotune.config import FineTuningConfig
from repotune.planning import ON_CPU, Workload, fit, gpu_target, machine_target
from repotune.planning.times import START_SECONDS, run_times
from repotune.records import Calibration, Machine, Range
from repotune.tables import find_gpu, known_model

from .setups import SHAPE

STARTER = known_model("starter").shape
GIB = 2**30
MACHINE = Machine(
    platform="", python="", torch="", cpu="2 cores", cores=2, ram_bytes=24 * GIB,
    ram_free_bytes=23 * GIB, gpu=None, gpu_free_bytes=0, bf16=True,
)  # fmt: skip
CALIBRATION = Calibration(
    device="2 cores", matmul_flops=912e9, bandwidth=45.7e9, host_to_device=None,
    launch_seconds=1.87e-6, context_bytes=0, date="",
)  # fmt: skip
CPU = machine_target(MACHINE, None, CALIBRATION)
RUN = FineTuningConfig(
    batch_size=4, gradient_accumulation_steps=1, max_seq_length=512, use_4bit=False, max_steps=12,
    eval_max_tokens=5000, precision="bf16",
)  # fmt: skip
CODE = Workload(
    files=75, tokens=Range(low=246_000, expected=246_000, high=246_000), note="Counted."
)


def times(config=RUN, shape=STARTER, target=CPU, workload=CODE):
    return run_times(shape, config, fit(shape, config, target), target, workload)


def seconds(found, stage):
    one = found.stages[stage]
    return tuple(3600 * each for each in (one.low, one.expected, one.high))


def test_a_run_that_was_timed_is_within_the_ranges():
    """12 steps at 664 tokens/s took 40 s, the evaluation 56.5 s; it began after 4 s."""
    found = times()
    for stage, measured in (("start", 4.0), ("training", 40.0), ("evaluation", 56.5)):
        low, expected, high = seconds(found, stage)
        assert low <= measured <= high, stage
        assert 0.5 < measured / expected < 2, stage


@pytest.mark.parametrize("target", [CPU, gpu_target(find_gpu("RTX 3060").gpu)], ids=["cpu", "gpu"])
def test_the_stages_add_up(target):
    shape = STARTER if target is CPU else SHAPE
    config = RUN if target is CPU else FineTuningConfig.for_gpu("RTX 3060")
    found = times(config, shape, target)
    assert list(found.stages) == ["start", "training", "evaluation"]
    for name in ("low", "expected", "high"):
        parts = sum(getattr(one, name) for one in found.stages.values())
        assert parts == pytest.approx(getattr(found.hours, name))
    assert all(one.low < one.expected < one.high for one in found.stages.values())
    assert seconds(found, "start")[1] > START_SECONDS.expected or target is CPU


def test_the_evaluation_grows_with_what_it_reads_and_writes():
    base = seconds(times(), "evaluation")[1]
    assert seconds(times(RUN.merged({"eval_max_tokens": 20_000})), "evaluation")[1] > base
    no_gaps = seconds(times(workload=replace(CODE, fills_in=False)), "evaluation")[1]
    assert 0.4 * base < no_gaps < 0.8 * base
    assert seconds(times(RUN.merged({"evaluate": False})), "evaluation") == (0.0, 0.0, 0.0)


def test_held_out_losses_on_the_way_are_part_of_the_training():
    once = seconds(times(RUN.merged({"eval_steps": 12})), "training")[1]
    each = seconds(times(RUN.merged({"eval_steps": 1})), "training")[1]
    never = seconds(times(RUN.merged({"heldout_share": 0.0, "evaluate": False})), "training")[1]
    assert each - never == pytest.approx(12 * (once - never))
    # 4,096 tokens forward, at 669 tokens/s forward and back.
    assert once - never == pytest.approx(0.48 * ON_CPU.sample_tokens / 669, rel=0.1)


def test_sequences_wait_for_others_where_memory_holds_few_of_them():
    """Keys and values of one take 0.5 MiB a token in CodeLlama 7B, so 2,048 take a GiB."""
    config = FineTuningConfig.for_gpu("RTX 4090").merged(
        {"max_seq_length": 2048, "batch_size": 1, "use_4bit": True}
    )
    card = gpu_target(find_gpu("RTX 4090").gpu)
    roomy = replace(card, free_bytes=400 * GIB)  # for 150 at once

    def evaluation(target):
        return run_times(SHAPE, config, fit(SHAPE, config, target), target, CODE).stages[
            "evaluation"
        ]

    at_once, waiting = evaluation(roomy), evaluation(card)
    # 8 of 150 at once: 18 rounds more, in each of which a few tokens read all weights.
    assert waiting.expected > 1.6 * at_once.expected
    assert waiting.low < waiting.expected < waiting.high
    fewer = evaluation(replace(card, free_bytes=card.free_bytes // 2))
    more = waiting.expected - at_once.expected
    assert fewer.expected - at_once.expected > 2 * more
