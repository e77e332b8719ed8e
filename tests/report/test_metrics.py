"""Lines as the loop writes them, and lines that a crash or another version wrote."""

import json

from repotune.report import parse_metrics


def step(number, **changes):
    line = {
        "step": number, "steps": 9, "loss": 2.0 / number, "grad_norm": 0.5, "learning_rate": 1e-4,
        "loss_scale": None, "tokens": 100, "tokens_per_second": 50.0, "seconds_left": 1.0,
    }  # fmt: skip
    return json.dumps({**line, **changes})


def test_each_curve_has_its_steps_and_events_are_told_apart():
    found = parse_metrics(
        [
            step(1), step(2, grad_norm=None), '{"step": 2, "heldout_loss": 1.5}', step(3),
            '{"step": 3, "healed": "fewer rows"}', '{"step": 3, "heldout_loss": null}',
        ]
    )  # fmt: skip
    assert found.loss == ((1, 2.0), (2, 1.0), (3, 2.0 / 3))
    assert found.grad_norm == ((1, 0.5), (3, 0.5))
    assert found.heldout_loss == ((2, 1.5),)
    assert found.healed == ((3, "fewer rows"),)
    assert (found.overflows, found.steps, found.steps_planned) == (1, 3, 9)
    assert found.training_seconds == 6.0
    timed = parse_metrics([step(1, seconds=9.5, memory_bytes=7), step(2, seconds=0.5)])
    assert timed.training_seconds == 10.0
    assert timed.memory_bytes == ((1, 7),)
    assert found.unreadable == 0


def test_what_is_no_step_is_counted_and_left_out():
    found = parse_metrics([step(1), "", "[]", '{"loss": 1}', '{"step": "x"}', '{"step": 2, "lo'])
    assert found.loss == ((1, 2.0),)
    assert found.unreadable == 5
    assert parse_metrics([]).steps == 0
    nan = parse_metrics(['{"step": 1, "loss": NaN, "tokens": 5, "tokens_per_second": 0}'])
    assert nan.loss == ()
    assert nan.training_seconds == 0.0
