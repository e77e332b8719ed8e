"""The model of a plan, by the table or its folder."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from repotune.errors import ModelError, RepotuneError
from repotune.records import Shape
from repotune.tables import known_model, models


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model of a plan."""

    name: str
    shape: Shape
    download_bytes: int
    fim: bool | None
    """Whether it has tokens for fill in the middle; None: unknown."""


def find_subject(name: str) -> Subject:
    """The model ``name``: a hub id of the table, ``starter``, a folder or a .gguf file.

    Raises ModelError for an id that the table does not know, and for a folder that holds no model
    that can be trained.
    """
    known = known_model(name)
    if known is not None:
        is_here = name == "starter"
        size = 0 if is_here else known.download_bytes
        return Subject(name=known.name, shape=known.shape, download_bytes=size, fim=known.fim)
    path = Path(name).expanduser()
    if name and path.exists():
        shape = _local_shape(path)
        return Subject(name=name, shape=shape, download_bytes=0, fim=_local_fim(path))
    near = difflib.get_close_matches(name, [model.name for model in models()], n=3, cutoff=0.5)
    hint = f"perhaps {' or '.join(near)} is meant" if near else "check the spelling"
    raise ModelError(
        f"{name or 'An empty name'} is not a model that plans without a network, nor a folder "
        f"here: {hint}, or give the folder of a downloaded model."
    )


def all_subjects() -> tuple[Subject, ...]:
    """Each shape of the table once, under its first name."""
    seen: dict[Shape, Subject] = {}
    for model in models():
        size = 0 if model.name == "starter" else model.download_bytes
        subject = Subject(
            name=model.name, shape=model.shape, download_bytes=size, fim=model.fim
        )  # fmt: skip
        seen.setdefault(model.shape, subject)
    return tuple(seen.values())


def _local_shape(path: Path) -> Shape:
    from repotune.gguf_file import open_gguf
    from repotune.model.shape import CONFIG_FILE, config_shape, gguf_shape, is_gguf, read_config

    if path.is_dir():
        return config_shape(read_config(path), path / CONFIG_FILE)
    if is_gguf(path):
        return gguf_shape(open_gguf(path))
    raise ModelError(f"{path} is not a model: give a folder with config.json or a .gguf file.")


def _local_fim(path: Path) -> bool | None:
    from repotune.tokens import load_tokenizer

    try:
        return load_tokenizer(path).fim is not None
    except RepotuneError:
        return None
