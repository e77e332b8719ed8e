"""Training runs of the tiny model, and what they told."""

import torch

from repotune.events import StepDone
from repotune.training import latest, load, train

from .tiny import TinyModel, TinyRows, settings


def run(folder, *, dropout=0.0, rows=None, model=None, **changes):
    """The trained model, its result, its events, the rows it read."""
    model, events = TinyModel(dropout=dropout) if model is None else model, []
    rows = TinyRows() if rows is None else rows
    options = {"emit": events.append, "dropout": dropout > 0, **changes}
    result = train(model, rows, **settings(folder, **options))
    return model, result, events, rows.read


def losses(events):
    return [event.loss for event in events if isinstance(event, StepDone)]


def resumed(folder, **changes):
    path = latest(folder, lambda event: None)
    state = load(path, like=TinyModel().lora_state(), fingerprint="tiny")
    return run(folder, resume_from=state, **changes)


def stop_after(steps):
    """An ``emit`` and its ``should_stop``, which says yes once ``steps`` are done."""
    events = []
    return events, lambda: any(isinstance(e, StepDone) and e.step == steps for e in events)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()
