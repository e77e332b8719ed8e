"""What `repotune tune` does before anything heavy is imported."""

import os

import pytest

from repotune import FineTuningConfig
from repotune.cli import main
from repotune.errors import RunError
from repotune.runs import create_run

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def told(monkeypatch):
    """What cuBLAS is told when the work begins, one for each call."""
    monkeypatch.setenv(CUBLAS, "")  # put back afterwards
    monkeypatch.delenv(CUBLAS)
    seen = []

    def work(*args, **options):
        seen.append(os.environ.get(CUBLAS))
        raise RunError("Enough.")

    monkeypatch.setattr("repotune.pipeline.tune", work)
    monkeypatch.setattr("repotune.pipeline.resume", work)
    return seen


def test_cublas_is_told_before_a_deterministic_run_and_before_it_is_resumed(told, tmp_path):
    assert main(["tune", str(tmp_path), "--batch-size", "1"]) == 1
    assert main(["tune", str(tmp_path), "--batch-size", "1", "--deterministic"]) == 1
    assert told == [None, ":4096:8"]
    del os.environ[CUBLAS]
    for wanted in (False, True):
        config = FineTuningConfig(deterministic=wanted)
        folder = tmp_path / str(wanted)
        create_run(
            folder, tree=tmp_path, model="", config=config.model_dump(mode="json"), config_toml=""
        )
        assert main(["tune", "--resume", str(folder)]) == 1
    assert told[2:] == [None, ":4096:8"]
