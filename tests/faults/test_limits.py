"""Files may not grow beyond a limit: what pyarrow and TensorBoard write is whole or not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
ROOT = Path(__file__).parents[2]


def limited(folder, *, every):
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.limited", str(folder)]
    done = subprocess.run(
        [*command, str(every)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no traceback of a thread
    return json.loads(done.stdout)


def check(found):
    for name in ("corpus", "rows"):
        assert found[name]["wrong"] == []
        assert found[name]["failed"] == found[name]["tried"] > 0
    curves = found["curves"]
    assert curves["said"]
    for said in curves["said"].values():
        (sentence,) = said
        assert "curves in" in sentence
        assert "are not written any more (File too large); metrics.jsonl has the same" in sentence


def test_at_some_sizes_what_does_not_fit_is_one_sentence_and_leaves_nothing(tmp_path):
    check(limited(tmp_path, every=1500))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_at_many_sizes_what_does_not_fit_is_one_sentence_and_leaves_nothing(tmp_path, tell):
    found = limited(tmp_path, every=5)
    check(found)
    tell(
        f"files cut short by the system at {found['corpus']['tried']} sizes of a corpus and "
        f"{found['rows']['tried']} of rows: each one sentence, nothing half left; TensorBoard's "
        "curves end alone; lost: nothing."
    )
