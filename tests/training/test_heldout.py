"""The held-out loss decides what is exported and when to stop, also over a resume."""

import math

import pytest
import torch

from repotune.events import HeldoutMeasured, Notice, StepDone
from repotune.training import Heldout, latest, load, train
from repotune.training.checkpoint import Best
from repotune.training.heldout import judged

from .tiny import TinyModel, TinyRows, settings

LOSSES = {1: 5.0, 2: 3.0, 3: 4.0, 4: 3.5, 5: 3.0, 6: 1.0, 7: 2.0, 8: 9.0}


class Curve:
    """A held-out loss that depends on the steps that were done, as a real one would."""

    def __init__(self, losses=LOSSES):
        self.losses, self.events, self.asked = losses, [], []

    def emit(self, event):
        self.events.append(event)

    def measure(self):
        (*_, step) = [event.step for event in self.events if isinstance(event, StepDone)]
        self.asked.append(step)
        return self.losses[step]


def run(folder, curve, *, every=1, patience=None, **changes):
    model = TinyModel()
    heldout = Heldout(measure=curve.measure, every_steps=every, patience=patience)
    options = {"heldout": heldout, "emit": curve.emit, **changes}
    return model, train(model, TinyRows(), **settings(folder, **options))


def test_it_is_measured_every_so_many_steps_and_at_the_end(tmp_path):
    curve = Curve()
    _, result = run(tmp_path, curve, every=3)
    assert curve.asked == [3, 6, 8]
    assert (result.best_step, result.heldout_loss) == (6, 1.0)
    measured = [event for event in curve.events if isinstance(event, HeldoutMeasured)]
    assert [(e.step, e.loss, e.is_best) for e in measured] == [
        (3, 4.0, True), (6, 1.0, True), (8, 9.0, False),
    ]  # fmt: skip


def test_a_run_ends_once_patience_is_out(tmp_path):
    curve = Curve()
    _, result = run(tmp_path, curve, patience=3)
    assert (result.steps, result.best_step, result.stopped_early) == (5, 2, True)
    assert not result.interrupted
    (said,) = [event.message for event in curve.events if isinstance(event, Notice)]
    assert said == (
        "Stopped early: the held-out loss was not lower in 3 measurements than the 3.0000 after "
        "step 2."
    )


def test_without_patience_or_with_enough_of_it_all_steps_are_done(tmp_path):
    for patience in (None, 4):
        _, result = run(tmp_path / str(patience), Curve(), patience=patience)
        assert (result.steps, result.best_step, result.stopped_early) == (8, 6, False)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_stop_in_between_changes_neither_the_best_nor_the_end(stop, tmp_path):
    straight, whole = run(tmp_path / "a", Curve(), patience=3)
    curve = Curve()

    def should_stop():
        return any(isinstance(e, StepDone) and e.step == stop for e in curve.events)

    _, first = run(tmp_path / "b", curve, patience=3, should_stop=should_stop)
    assert (first.interrupted, first.steps) == (True, stop)
    path = latest(tmp_path / "b", print)
    start = load(path, like=TinyModel().lora_state(), fingerprint="tiny")
    curve.events = [e for e in curve.events if isinstance(e, StepDone)]
    resumed, second = run(tmp_path / "b", curve, patience=3, resume_from=start)
    assert (second.steps, second.best_step, second.heldout_loss, second.stopped_early) == (
        whole.steps, whole.best_step, whole.heldout_loss, True,
    )  # fmt: skip
    for name, tensor in straight.lora_state().items():
        assert torch.equal(resumed.lora_state()[name], tensor)


def test_a_run_that_stopped_early_stays_stopped_when_it_is_resumed(tmp_path):
    run(tmp_path, Curve(), patience=3)
    start = load(latest(tmp_path, print), like=TinyModel().lora_state(), fingerprint="tiny")
    curve = Curve()
    curve.events.append(type("Done", (StepDone,), {})(
        step=5, steps=8, loss=0.0, grad_norm=0.0, learning_rate=0.0, tokens=0,
        seconds=0.0, tokens_per_second=0.0, seconds_left=0.0,
    ))  # fmt: skip
    _, again = run(tmp_path, curve, patience=3, resume_from=start)
    assert (again.steps, again.best_step, again.stopped_early) == (5, 2, True)


def test_a_measurement_that_is_broken_off_counts_for_nothing(tmp_path):
    asked = []

    def measure():
        asked.append(True)

    heldout = Heldout(measure=measure, every_steps=2, patience=1)
    options = {"heldout": heldout, "should_stop": lambda: bool(asked)}
    result = train(TinyModel(), TinyRows(), **settings(tmp_path, **options))
    assert (result.interrupted, result.steps, result.best_step) == (True, 2, None)
    assert latest(tmp_path, print).name == "step-000002"


def test_no_memory_for_a_measurement_is_said_and_the_training_goes_on(tmp_path):
    def measure():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    events = []
    heldout = Heldout(measure=measure, every_steps=4, patience=1)
    options = {"heldout": heldout, "emit": events.append}
    result = train(TinyModel(), TinyRows(), **settings(tmp_path, **options))
    assert (result.steps, result.best_step) == (8, None)
    said = [event.message for event in events if isinstance(event, Notice)]
    assert said == ["The held-out loss was not measured: there was no memory for it."] * 2


def test_what_is_no_number_is_never_best():
    best = judged(Best(), 1, math.nan)
    assert best == Best(step=0, loss=None, measured=1, worse=1)
    best = judged(best, 2, 1.5)
    assert best == Best(step=2, loss=1.5, measured=2, worse=0)
    assert judged(best, 3, math.inf) == Best(step=2, loss=1.5, measured=3, worse=1)
    assert judged(best, 3, 1.5) == Best(step=2, loss=1.5, measured=3, worse=1)
