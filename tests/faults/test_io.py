"""Call number N on the disk fails, for every N: what was saved loads, and the run ends the same."""

import errno
import sys

import pytest
import torch
from safetensors.torch import load_file

from repotune.training import damages

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

FAULTS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
SAVED = 10
"""Steps that are saved when the faults begin, of 12."""


@pytest.fixture(scope="module")
def begun(runs):
    """A run killed before its step 11 was saved, and the adapter that it should end with."""
    folder = runs.new_folder()
    assert runs.do(folder, kill_step=SAVED + 1)["signal"] == 9
    assert (folder / "checkpoints" / f"step-{SAVED:06}").exists()
    whole = runs.copy(folder)
    answer = runs.do(whole)
    assert answer["code"] == 0
    return folder, load_file(whole / "adapter" / "adapter_model.safetensors"), answer["calls"]


def fail_calls(runs, begun, *, every):
    """Fail each ``every``-th call of the rest of the run; (failed, ended by themselves)."""
    begun, expected, calls = begun
    failed = by_themselves = 0
    for number in FAULTS.values():
        for call in range(1, calls + 1, every):
            folder = runs.copy(begun)
            answer = runs.do(folder, fail_call=call, errno=number)
            assert answer["signal"] == 0
            failed += answer["calls"] >= call
            found = damages(folder / "checkpoints")
            assert set(found.values()) == {None}, (call, answer)
            assert max(found).name >= f"step-{SAVED:06}"
            by_themselves += answer["code"] == 0
            if answer["code"] != 0:
                # One sentence, with what to do; then the same command goes on.
                assert answer["error"].startswith(("RunError: ", "DiskFull: ")), answer
                assert runs.do(folder)["code"] == 0, (call, answer)
            ours = load_file(folder / "adapter" / "adapter_model.safetensors")
            assert all(torch.equal(ours[name], expected[name]) for name in expected), call
    return failed, by_themselves


def test_some_calls_fail_and_nothing_is_lost(runs, begun):
    failed, by_themselves = fail_calls(runs, begun, every=16)
    assert failed > 8
    assert 0 < by_themselves < failed


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_every_call_fails_once_and_nothing_is_lost(runs, begun, tell):
    failed, by_themselves = fail_calls(runs, begun, every=1)
    assert failed >= 2 * begun[2]
    tell(
        f"{failed} calls failed (mkdir, open, write, fsync, rename; EIO and ENOSPC); "
        f"{by_themselves} of the runs went on by themselves, the others by --resume; "
        "lost: nothing."
    )
