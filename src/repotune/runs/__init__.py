"""The run folder: the names of its files, its state, its lock.

    run.json          what the run is and how far it came; written first, always whole
    config.toml       the configuration, for people and for `--config`
    run.lock          held by the process that works on the run, released when that process dies
    corpus/           manifest.parquet, documents.parquet, summary.json
    tokens/           rows of token ids
    metrics.jsonl     one line per step
    tensorboard/      the same for TensorBoard
    checkpoints/      step-000050/, …
    adapter/          PEFT's format
    evaluation.json   base against tuned
    serve/            the models that `repotune serve` made for llama.cpp

``run.json`` alone is enough to start the run again, and it appears by one rename: a process
killed at any moment leaves either no run or one that can be resumed.
"""

from repotune.runs.folder import (
    RUNS_FOLDER,
    RunFolder,
    create_run,
    default_run_path,
    find_run,
    open_run,
    refuse_taken,
)
from repotune.runs.listing import RunInfo, list_runs, unfinished_like
from repotune.runs.run_json import RunState, Status, sha256_of, write_json_atomic

__all__ = [
    "RUNS_FOLDER",
    "RunFolder",
    "RunInfo",
    "RunState",
    "Status",
    "create_run",
    "default_run_path",
    "find_run",
    "list_runs",
    "open_run",
    "refuse_taken",
    "sha256_of",
    "unfinished_like",
    "write_json_atomic",
]
