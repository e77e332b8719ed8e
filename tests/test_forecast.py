"""Settings that suit a GPU, the plan of a run, and predicted against measured."""

from dataclasses import replace

import pytest

from repotune import FineTuningConfig
from repotune.events import Notice, StepDone
from repotune.forecast import (
    SIZE_FIELDS,
    Meter,
    forecast,
    outcome,
    peak_gib,
    plan_facts,
    plan_line,
    prepare,
    suited,
    suited_here,
    target_here,
)
from repotune.machine import (
    Peak,
    find_device,
    identify,
    precision_here,
    probe,
    read_rates,
    record_outcome,
)
from repotune.planning import Setup, choose_policy, fit, gpu_target, packed_documents
from repotune.records import LoraSpec, RowsSummary
from repotune.tables import find_gpu, known_model

CODELLAMA = "codellama/CodeLlama-7b-hf"
STARTER = known_model("starter").shape
ROWS = RowsSummary(
    rows=100, tokens=48_000, tokens_kept=1.0, fill=0.9375, fim_documents=0, set_aside={},
    fingerprint="",
)  # fmt: skip


@pytest.fixture
def own_data(monkeypatch, tmp_path):
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))


def suited_to(gpu, model, config):
    said = []
    target = gpu_target(find_gpu(gpu).gpu)
    shape = known_model(model).shape
    return suited(config, model, shape, target, "bf16", said.append), said


@pytest.mark.parametrize("gpu", ["RTX 3060", "RTX 4060 Ti 16GB", "RTX 4090"])
def test_a_gpu_gets_its_preset_and_all_else_stays(gpu):
    base = FineTuningConfig(max_steps=7, learning_rate=1e-4)
    config, said = suited_to(gpu, CODELLAMA, base)
    preset = FineTuningConfig.for_gpu(gpu)
    assert config == preset.merged({"max_steps": 7, "learning_rate": 1e-4})
    assert len(said) == 1
    assert isinstance(said[0], Notice)
    for name in SIZE_FIELDS:
        value = str(dict(config)[name]).lower()
        assert f"{name} = {value}" in said[0].message


def test_another_model_gets_what_fits_it():
    config, _ = suited_to("RTX 3060", "codellama/CodeLlama-13b-hf", FineTuningConfig())
    assert config != FineTuningConfig.for_gpu("RTX 3060")
    shape = known_model("codellama/CodeLlama-13b-hf").shape
    assert fit(shape, config, gpu_target(find_gpu("RTX 3060").gpu)).verdict == "fits"
    assert config.precision == "auto"


def test_without_a_gpu_nothing_changes():
    said = []
    base = FineTuningConfig(model="starter", max_steps=3)
    config = suited_here(base, default_model="starter", emit=said.append)
    on_gpu = find_device() == "cuda"
    assert (config != base, bool(said)) == (on_gpu, on_gpu)


def test_a_short_run_does_not_wait_for_a_measurement(own_data):
    said = []
    prepare(20, said.append)
    assert said == []
    assert read_rates(identify(find_device()).machine_id) is None


def test_nobody_knows_how_fast_a_processor_is_in_fp16():
    machine = replace(probe(), gpu=None)
    assert target_here(machine, "fp16", lambda event: None) is None
    assert target_here(machine, "fp32", lambda event: None) is not None


def planned(config, **changes):
    machine = probe()
    precision = precision_here(config.precision, machine)
    target = target_here(machine, precision, lambda event: None)
    made = forecast(
        config,
        STARTER,
        target,
        model="starter",
        precision=precision,
        steps=12,
        rows=ROWS,
        **{"fills_in": True, **changes},
    )
    return machine, target, made


def test_the_plan_is_of_the_rows_and_has_the_policy_of_the_run():
    config = FineTuningConfig(
        batch_size=1, gradient_accumulation_steps=2, max_seq_length=512, use_4bit=False
    )
    machine, target, made = planned(config)
    on_gpu = machine.gpu is not None
    lora = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=config.target_modules)
    setup = Setup(
        shape=STARTER, lora=lora, tokens=512, device="cuda" if on_gpu else "cpu",
        itemsize=2 if made.config["precision"] == "bf16" else 4,
        documents=packed_documents(512, 1),
    )  # fmt: skip
    assert made.policy == choose_policy(
        setup, free_bytes=machine.gpu_free_bytes if on_gpu else machine.ram_free_bytes,
        gradient_checkpointing=True,
        host_free_bytes=machine.ram_free_bytes if on_gpu else 0,
    )  # fmt: skip
    assert (made.steps, made.verdict) == (12, "fits")
    # 2 rows of 512 positions a step, of which 0.9375 are no padding.
    seconds = 2 * 512 * 0.9375 / made.tokens_per_second.expected
    assert sum(made.seconds.values()) == pytest.approx(seconds)
    assert made.hours.low < made.hours.expected < made.hours.high
    facts = plan_facts(made, target)
    assert facts["hours"]["expected"] == pytest.approx(
        sum(one["expected"] for one in facts["hours_by_stage"].values())
    )
    assert facts["context_bytes"] == round(target.context.expected)
    line = plan_line(made, target)
    assert "\n" not in line
    assert f"{peak_gib(made).expected:.1f} GiB" in line
    assert line.lower().endswith(made.policy.reason.lower())
    assert "of them for the evaluation" in line
    _, _, without = planned(config.merged({"evaluate": False}))
    assert "evaluation" not in plan_line(without, target)


def step(tokens):
    return StepDone(
        step=1, steps=9, loss=1.0, grad_norm=1.0, learning_rate=1e-4, tokens=tokens,
        seconds=1.0, tokens_per_second=1.0, seconds_left=0.0,
    )  # fmt: skip


def test_the_speed_leaves_the_first_two_steps_out():
    heard, times = [], iter([100.0, 110.0, 111.0, 112.0])
    meter = Meter(Peak("cpu"), heard.append, clock=lambda: next(times))
    meter(Notice(message="a word"))
    meter(step(1000))
    assert meter.tokens_per_second() is None
    meter(step(1000))
    assert meter.tokens_per_second() == 100.0
    meter(step(400))
    meter(step(800))
    assert meter.tokens_per_second() == 600.0
    assert (meter.steps, len(heard)) == (4, 5)


def test_predicted_and_measured_are_kept_and_shown_by_the_next_plan(own_data):
    config = FineTuningConfig(batch_size=1, max_seq_length=512, lora_r=8)
    _, target, made = planned(config)
    assert "The last run here" not in plan_line(made, target)
    times = iter(range(100))
    meter = Meter(Peak(target.device), lambda event: None, clock=lambda: float(next(times)))
    assert outcome(made, target, meter) is None
    for _ in range(25):
        meter(step(300))
    took = outcome(made, target, meter)
    assert took.predicted_tokens_per_second == made.tokens_per_second.expected
    assert (took.measured_tokens_per_second, took.steps) == (300.0, 25)
    assert took.predicted_peak_bytes == pytest.approx(peak_gib(made).expected * 2**30, abs=1)
    assert took.config["lora_r"] == 8
    assert took.measured_peak_bytes is None or took.measured_peak_bytes > 2**20
    record_outcome(replace(took, predicted_tokens_per_second=200.0))
    assert "The last run here had 1.50 times the predicted speed" in plan_line(made, target)


def test_rows_that_do_not_fit_have_no_plan_and_one_sentence_says_so():
    config = FineTuningConfig(batch_size=1, max_seq_length=512, use_4bit=False)
    target = replace(gpu_target(find_gpu("RTX 3060").gpu), free_bytes=2**20)
    made = forecast(
        config, STARTER, target, model="starter", precision="bf16", steps=12, rows=ROWS,
        fills_in=True,
    )  # fmt: skip
    line = plan_line(made, target)
    assert line.startswith("No plan: whole rows of 512 tokens do not fit, since they need ")
    assert line.count(".") == 3  # two numbers and the end
