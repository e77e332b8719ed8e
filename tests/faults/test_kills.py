"""SIGKILL again and again: nothing that was saved is lost, and each run ends as if undisturbed."""

import random
import sys
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load_file

from repotune.training import damages

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

CALLS_OF_THREE_SAVES = 40
SECONDS_OF_A_RUN = 1.5


@dataclass
class Tally:
    kills: int = 0
    in_a_save: int = 0
    runs: int = 0
    steps: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def undisturbed(runs):
    folder = runs.new_folder()
    assert runs.do(folder)["code"] == 0
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@dataclass
class Chance:
    """Where a kill falls: half of them at a call of a save, half at any time."""

    random: random.Random
    seconds: float = SECONDS_OF_A_RUN
    since: str = "kill_after"

    def pick(self):
        if self.random.random() < 0.5:
            return {"kill_call": self.random.randint(1, CALLS_OF_THREE_SAVES)}
        return {self.since: self.random.random() * self.seconds}


def kill(runs, chance, folder, tally, settings):
    """One kill; whether it came in time."""
    answer = runs.do(folder, settings=settings, **chance.pick())
    if "is finished, and there is nothing to go on with" in answer["error"]:
        return False  # the kill before fell after its last word was written
    assert not answer["error"]
    if answer["signal"] != 9:
        return False
    tally.kills += 1
    tally.in_a_save += answer["in_save"]
    return True


def newest(folder):
    """The newest step on disk; no checkpoint there is damaged, however the process died."""
    found = damages(folder / "checkpoints")
    assert set(found.values()) <= {None}
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def kill_and_go_on(runs, undisturbed, *, kills, chance=None, settings=None):
    chance, tally = chance or Chance(random.Random(11)), Tally()
    while tally.kills < kills:
        folder, reached = runs.new_folder(), 0
        while tally.kills < kills and kill(runs, chance, folder, tally, settings or {}):
            step = newest(folder)
            assert step >= reached  # nothing that was saved is lost
            reached = step
        if not (folder / "adapter").exists():
            # Killed before its folder was there, it begins.
            assert runs.do(folder, settings=settings or {})["code"] == 0
        ours = load_file(folder / "adapter" / "adapter_model.safetensors")
        assert ours.keys() == undisturbed.keys()
        assert all(torch.equal(ours[name], undisturbed[name]) for name in ours)
        tally.runs += 1
    return tally


def test_killed_a_few_times_a_run_ends_as_the_undisturbed_one(runs, undisturbed):
    tally = kill_and_go_on(runs, undisturbed, kills=10)
    assert tally.in_a_save >= 3


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_200_times_runs_end_as_the_undisturbed_one(runs, undisturbed, tell):
    tally = kill_and_go_on(runs, undisturbed, kills=200)
    assert tally.in_a_save >= 200 / 3
    tell(
        f"{tally.kills} kills, {tally.in_a_save} of them inside a save, over {tally.runs} runs; "
        "each ended with the very adapter of the undisturbed run; lost: nothing."
    )
