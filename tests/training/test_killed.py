"""Killed without warning, again and again, the training ends where it would have ended."""

import random
import subprocess
import sys
from pathlib import Path

import torch

from repotune.training import latest, load, train

from .tiny import TinyModel, TinyRows, settings

CHILD = Path(__file__).with_name("killed.py")
STEPS, KILLS = 1000, 6


def test_a_run_killed_at_random_points_ends_as_the_uninterrupted_one(tmp_path):
    # Fixed seed: the same numbers of events each time; where in a save the kill falls is chance.
    chance = random.Random(5)
    folder = tmp_path / "killed"
    like, reached = TinyModel().lora_state(), 0
    for _ in range(KILLS):
        command = [sys.executable, str(CHILD), str(folder), str(STEPS)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # 2 events a step; the kill lands while the child trains and saves on.
        events = chance.randint(1, 80)
        seen = len(child.stdout.read(events))
        child.kill()
        _, said = child.communicate()
        assert seen == events, said  # else it ended by itself
        path = latest(folder, lambda event: None)
        step = 0 if path is None else load(path, like=like, fingerprint="tiny").step
        assert step >= reached  # nothing that was saved is lost
        reached = step
    assert 0 < reached < STEPS

    notices = []
    path = latest(folder, notices.append)
    assert notices == []  # a half checkpoint was never a candidate
    start = load(path, like=like, fingerprint="tiny")
    options = {"steps": STEPS, "dropout": True}
    resumed, straight = TinyModel(dropout=0.3), TinyModel(dropout=0.3)
    train(resumed, TinyRows(), **settings(folder, resume_from=start, **options))
    train(straight, TinyRows(), **settings(tmp_path / "straight", **options))
    for name, tensor in straight.lora_state().items():
        assert torch.equal(resumed.lora_state()[name], tensor)
