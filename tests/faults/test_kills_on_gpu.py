"""SIGKILL on a GPU: in deterministic mode, too, each run ends as the undisturbed one.

`make test-faults-gpu`. A process takes seconds to reach its first step there, so several runs go on
side by side, and are killed in their training. The normal suite does the same on a CPU, in small.
"""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file

from .test_kills import Chance, Tally, kill_and_go_on

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

# At most 20 steps: a longer run would measure the machine before.
USUAL = {"max_steps": 20}
KINDS = {
    # Without dropout, passes are recorded.
    "bf16": {**USUAL, "precision": "bf16", "use_4bit": False, "lora_dropout": 0.0},
    "4 bits": {**USUAL, "precision": "bf16", "use_4bit": True},
}


def kill_side_by_side(start_runs, kinds, *, chains, kills):
    """``chains`` servers for each kind, ``kills`` in each; what was done, by kind."""
    servers = [(kind, start_runs()) for kind in kinds for _ in range(chains)]

    def undisturbed(kind, runs):
        folder = runs.new_folder()
        answer = runs.do(folder, settings=kinds[kind])
        assert answer["code"] == 0, answer["error"]
        return load_file(folder / "adapter" / "adapter_model.safetensors"), answer["training"]

    def chain(number):
        kind, runs = servers[number]
        adapter, seconds = expected[kind]
        chance = Chance(random.Random(number), seconds=seconds, since="kill_training")
        return kill_and_go_on(runs, adapter, kills=kills, chance=chance, settings=kinds[kind])

    with ThreadPoolExecutor(len(servers)) as pool:
        first = dict(reversed(servers))
        expected = dict(zip(first, pool.map(undisturbed, first, first.values()), strict=True))
        tallies = list(pool.map(chain, range(len(servers))))
    done = {kind: Tally() for kind in kinds}
    for (kind, _), tally in zip(servers, tallies, strict=True):
        done[kind].kills += tally.kills
        done[kind].in_a_save += tally.in_a_save
        done[kind].runs += tally.runs
    return done


def test_the_same_on_a_cpu(start_runs):
    kinds = {"fp32": {**USUAL, "precision": "fp32", "max_steps": 5}}
    done = kill_side_by_side(start_runs, kinds, chains=2, kills=1)
    assert done["fp32"].kills == 2


@pytest.mark.gpu
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_killed_20_times_on_a_gpu_runs_end_as_the_undisturbed_one(start_runs, tell):
    done = kill_side_by_side(start_runs, KINDS, chains=2, kills=5)
    for kind, tally in done.items():
        assert tally.kills == 10
        tell(
            f"{tally.kills} kills on a GPU in {kind}, {tally.in_a_save} of them inside a save, "
            f"over {tally.runs} runs; each ended with the very adapter of the undisturbed run; "
            "lost: nothing."
        )
