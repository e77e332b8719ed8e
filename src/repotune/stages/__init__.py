"""The stages of a run, each over a run's folder and its job: what ``pipeline`` puts in a row.

``corpus_rows`` makes what is trained on, ``tuning`` trains on it, ``rehearsal`` goes the whole way
in small before, ``proof`` exports and evaluates, ``room`` asks whether the disk has room for it;
``adapters`` says which adapter is used, ``reading`` is what an export of it is compared with, and
``gguf_files`` and ``vllm_models`` are those that are served.
"""

from repotune.stages.adapters import adapter_folder
from repotune.stages.corpus_rows import prepare_rows
from repotune.stages.gguf_files import ProvedModel, gguf_file
from repotune.stages.proof import compare, export, open_tuned
from repotune.stages.reading import Reading, bytes_to_read, read_fixed_code, why_not_read
from repotune.stages.rehearsal import is_worth_it, rehearse
from repotune.stages.room import check_room
from repotune.stages.tuning import heldout_sample, record_training, steps_of, train_on
from repotune.stages.vllm_models import served_by_vllm, vllm_folder

__all__ = [
    "ProvedModel",
    "Reading",
    "adapter_folder",
    "bytes_to_read",
    "check_room",
    "compare",
    "export",
    "gguf_file",
    "heldout_sample",
    "is_worth_it",
    "open_tuned",
    "prepare_rows",
    "read_fixed_code",
    "record_training",
    "rehearse",
    "served_by_vllm",
    "steps_of",
    "train_on",
    "vllm_folder",
    "why_not_read",
]
