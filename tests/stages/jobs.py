"""A settled job of the tiny model, its rows and its decoder."""

from dataclasses import dataclass, replace
from pathlib import Path

from repotune import FineTuningConfig
from repotune.job import Job, load_decoder, plan_policy, settle
from repotune.model import Decoder
from repotune.records import Passes
from repotune.runs import RunFolder, create_run
from repotune.stages import prepare_rows
from repotune.tokens import RowStore


def nothing(event):
    pass


def new_run(path: Path, tree: Path, model: Path, **changes) -> RunFolder:
    config = FineTuningConfig(
        **{
            "model": str(model),
            "max_seq_length": 64,
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": 4,
            "save_steps": 2,
            "precision": "fp32",
            "use_4bit": False,
            "learning_rate": 1e-2,
            **changes,
        }
    )
    return create_run(
        path, tree=tree, model=config.model, config=config.model_dump(mode="json"),
        config_toml=config.to_toml(),
    )  # fmt: skip


@dataclass
class Ready:
    folder: RunFolder
    job: Job
    rows: RowStore
    passes: Passes
    decoder: Decoder


def ready(path: Path, tree: Path, model: Path, **changes) -> Ready:
    folder = new_run(path, tree, model, **changes)
    job = settle(folder.state(), nothing)
    folder.update(facts=job.facts)
    return Ready(
        folder=folder, job=job, rows=prepare_rows(folder, job, nothing),
        passes=Passes(policy=plan_policy(job), rows=job.rows_per_pass),
        decoder=load_decoder(job, nothing),
    )  # fmt: skip


def on_gpu(job: Job, *, gpu_free_bytes: int, ram_free_bytes: int = 0) -> Job:
    """The job as it would be settled on a machine with a GPU."""
    machine = replace(
        job.machine, gpu="RTX 3060", gpu_free_bytes=gpu_free_bytes, ram_free_bytes=ram_free_bytes
    )
    return replace(job, machine=machine)
