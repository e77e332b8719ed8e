"""What loading a model in 4 bits takes of the host, by the benchmark of the whole model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_load.py"
EMBEDDING_GIB = 32_016 * 4096 * 2 / 2**30  # CodeLlama 7B's, in bf16; its head is as large


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is Linux's")
def test_loading_needs_little_more_than_what_stays(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--layers", "2", "--work", tmp_path],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["what"], second["what"]) == ("read and quantised", "from the cache")
    for one in (first, second):
        stays = 2 * EMBEDDING_GIB + one["cache_gib"] if one["device"] == "cpu" else 0
        # Above that the largest tensor twice in bf16, as read and on its way, and some for the
        # rest. An fp32 copy of it, or of a matrix while it is quantised, would be more.
        assert one["host_peak_gib"] < stays + 0.55
        assert one["cache_gib"] == pytest.approx(2 * 0.0973, rel=0.01)  # 99.6 MiB a layer
    assert not list(tmp_path.iterdir())
