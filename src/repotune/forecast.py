"""What a run is expected to need on this machine, and how that came out.

The settings that suit the GPU there is, the plan of a run that is about to start, and what it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, Literal

from repotune.config import FineTuningConfig
from repotune.errors import UsageError
from repotune.events import Emit, Event, Notice, StepDone
from repotune.planning import (
    Target,
    Workload,
    brief,
    duration,
    machine_target,
    plan,
    suited_config,
)
from repotune.records import Machine, Outcome, Plan, Precision, Range, RowsSummary, Shape
from repotune.tables import find_gpu, known_model

if TYPE_CHECKING:
    from repotune.machine import Peak

SIZE_FIELDS: Final = (
    "batch_size", "gradient_accumulation_steps", "max_seq_length", "use_4bit",
)  # fmt: skip
"""Settings that are chosen for a GPU where the user says nothing of any of them."""
OUTCOME_FIELDS: Final = (*SIZE_FIELDS, "lora_r", "gradient_checkpointing", "precision")
SHORT_RUN: Final = 20
"""A run of at most so many steps is a trial: measuring the machine would take longer than it."""
WARM_UP_STEPS: Final = 2
"""Kernels are compiled in the first step and passes recorded in the second: they are not part of
the speed."""
GIB: Final = 2**30


def prepare(max_steps: int | None, emit: Emit) -> None:
    """Before the first tensor: set up the GPU's allocator, and measure the machine if it never was.

    A run of at most 20 steps does not wait for that. Raises what ``machine.check_gpu`` does.
    """
    from repotune.machine import check_gpu, ensure_rates, find_device, prepare_gpu

    check_gpu()
    prepare_gpu()
    if max_steps is None or max_steps > SHORT_RUN:
        ensure_rates(find_device(), emit=emit)


def suited_here(config: FineTuningConfig, *, default_model: str, emit: Emit) -> FineTuningConfig:
    """``config`` with the size settings that suit this machine's GPU; as it is without a GPU.

    Downloads an unknown model, because its shape decides. Raises ModelError.
    """
    from repotune.kernels import with_triton_tried
    from repotune.machine import find_device, precision_here, probe

    if find_device() == "cpu":
        return config
    prepare(config.max_steps, emit)
    machine = with_triton_tried(probe())
    precision = precision_here(config.precision, machine)
    target = target_here(machine, precision, emit)
    if target is None:
        return config
    model = config.model or default_model
    return suited(config, model, _shape_of(model, config, emit), target, precision, emit)


def suited(
    config: FineTuningConfig, model: str, shape: Shape, target: Target,
    precision: Precision, emit: Emit,
) -> FineTuningConfig:  # fmt: skip
    """``config`` with the size settings that suit ``target``, which a notice names."""
    chosen = suited_config(model, shape, target, config.merged({"precision": precision}))
    changes = {name: value for name, value in chosen.model_dump().items() if name in SIZE_FIELDS}
    said = ", ".join(f"{name} = {str(value).lower()}" for name, value in changes.items())
    emit(Notice(message=f"Settings for the {target.name}, since none were given: {said}."))
    return config.merged(changes)


def target_here(machine: Machine, precision: str, emit: Emit) -> Target | None:
    """This machine as PyTorch sees it, once it has a context on the GPU.

    None where nobody knows how fast it is: for a GPU that is neither in the table nor measured, and
    for a processor in fp16, which it emulates, up to a hundred times slower than fp32.
    """
    from repotune.machine import gpu_bytes, read_calibration

    if machine.gpu is None and precision == "fp16":
        return None
    device: Literal["cuda", "cpu"] = "cuda" if machine.gpu else "cpu"
    calibration = read_calibration(device, precision, emit=emit)
    row = None
    if machine.gpu is not None:
        try:
            row = find_gpu(machine.gpu, gpu_bytes()).gpu
        except UsageError:
            if calibration is None:
                return None
    return machine_target(machine, row, calibration, has_context=True)


def forecast(
    config: FineTuningConfig, shape: Shape, target: Target, *, model: str, precision: str,
    steps: int, rows: RowsSummary, fills_in: bool,
) -> Plan:  # fmt: skip
    """The plan of a run of ``steps`` steps over rows that exist; ``fills_in``: see ``Workload``.

    Its speed counts tokens without padding, as a run does.
    """
    tokens = rows.tokens / (1 - config.heldout_share)
    made = plan(
        model=model,
        shape=shape,
        download_bytes=0,
        target=target,
        config=config.merged({"precision": precision, "max_steps": steps}),
        workload=Workload(
            files=None,
            tokens=Range(low=tokens, expected=tokens, high=tokens),
            note="Counted.",
            fills_in=fills_in,
        ),
    )
    speed = made.tokens_per_second
    return replace(
        made,
        tokens_per_second=Range(
            low=speed.low * rows.fill, expected=speed.expected * rows.fill,
            high=speed.high * rows.fill,
        ),
    )  # fmt: skip


def peak_gib(made: Plan) -> Range:
    """Of what the device shows, or of the process' resident memory on a CPU."""
    return made.peak_vram_gib if made.on_gpu else made.host_ram_gib


def plan_facts(made: Plan, target: Target) -> dict[str, Any]:
    """What a run records of its plan; each quantity is {low, expected, high}."""
    return {
        "verdict": made.verdict,
        "peak_gib": asdict(peak_gib(made)),
        "context_bytes": round(target.context.expected),
        "tokens_per_second": asdict(made.tokens_per_second),
        "hours": asdict(made.hours),
        "hours_by_stage": {name: asdict(one) for name, one in made.hours_by_stage.items()},
        "steps": made.steps,
    }


def plan_line(made: Plan, target: Target) -> str:
    """The plan in one line, with how the last plans on this machine did."""
    from repotune.machine import identify, read_outcomes, track_record

    peak, speed = peak_gib(made), made.tokens_per_second
    where = "GPU memory" if made.on_gpu else "RAM"
    if made.policy is None:
        return (
            f"No plan: whole rows of {made.config['max_seq_length']:,} tokens do not fit, since "
            f"they need {peak.expected:.1f} of {made.memory_gib:.1f} GiB of {where}, and how fast "
            "parts of them are is not planned."
        )
    basis = "measured here" if target.rates.measured else "projected, not measured here"
    policy = f" {made.policy.reason[:1].upper() + made.policy.reason[1:]}" if made.policy else ""
    record = track_record(read_outcomes(identify(target.device).machine_id))
    return (
        f"Plan: {peak.expected:.1f} GiB of {where} ({peak.low:.1f} to {peak.high:.1f}), "
        f"{speed.expected:,.0f} tokens/s ({speed.low:,.0f} to {speed.high:,.0f}; rates are "
        f"{basis}), {made.steps:,} steps, {_hours(made)}.{policy}"
        + (f" {record}" if record else "")
    )


class Meter:
    """Listens to a run's steps, and passes on what it hears; made before the model is loaded."""

    def __init__(
        self, peak: Peak, emit: Emit, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._peak, self._emit, self._clock = peak, emit, clock
        self._times: list[float] = []
        self._tokens: list[int] = []

    def __call__(self, event: Event) -> None:
        """Note when a step was done."""
        if isinstance(event, StepDone):
            self._times.append(self._clock())
            self._tokens.append(event.tokens)
        self._emit(event)

    @property
    def steps(self) -> int:
        """Steps that were heard of."""
        return len(self._tokens)

    def tokens_per_second(self) -> float | None:
        """Without the first two steps, where there are more; None for a single step."""
        first = min(WARM_UP_STEPS, self.steps - 1)
        if first < 1:
            return None
        seconds = self._times[-1] - self._times[first - 1]
        return sum(self._tokens[first:]) / seconds

    def peak_bytes(self) -> int | None:
        """The most that the process took since this was made, the GPU's context left out."""
        return self._peak.bytes()


def outcome(made: Plan, target: Target, meter: Meter) -> Outcome | None:
    """What was predicted and measured; None where too little was done to measure a speed."""
    from repotune.machine import identify

    speed, peak = meter.tokens_per_second(), meter.peak_bytes()
    if speed is None:
        return None
    if peak is not None:
        peak += round(target.context.expected)
    return Outcome(
        machine_id=identify(target.device).machine_id,
        model=made.model,
        config={name: value for name, value in made.config.items() if name in OUTCOME_FIELDS},
        predicted_peak_bytes=round(peak_gib(made).expected * GIB),
        measured_peak_bytes=peak,
        predicted_tokens_per_second=made.tokens_per_second.expected,
        measured_tokens_per_second=speed,
        steps=meter.steps,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _shape_of(model: str, config: FineTuningConfig, emit: Emit) -> Shape:
    from repotune.model import read_shape, resolve_model

    known = known_model(model)
    if known is not None:
        return known.shape
    return read_shape(
        resolve_model(
            model, revision=config.revision, offline=config.offline, cache=None, emit=emit
        )
    )


def _hours(made: Plan) -> str:
    proved = made.hours_by_stage["evaluation"]
    last = f", {brief(proved)} of them for the evaluation" if proved.expected else ""
    return f"{duration(made.hours)} in all{last}"
