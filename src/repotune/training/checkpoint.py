"""Checkpoints: all that the next step depends on, in a folder that is either whole or not there.

    checkpoints/step-000050/
      lora.safetensors        the fp32 LoRA matrices
      optimizer.safetensors   AdamW's moments: <name>.exp_avg, <name>.exp_avg_sq
      state.json              step, cursor in the order of rows, seed, fingerprint, losses, the best
                              step so far, the loss scale of a run in fp16; and the run's
                              configuration and versions, for people
      digests.json            SHA-256 of the three; written last, it says that they are complete

A checkpoint is written under a name that starts with a dot, each file and the folder synced, and
then renamed: the rename commits it. What a crash leaves under such a name is never a candidate.
No state of a random generator is stored, because none lives from one step to the next: orders and
dropout masks come from the seed and the cursor.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from repotune.durable import sync_folder, write_durably, write_parts_durably, writing
from repotune.errors import CheckpointError, DiskFull
from repotune.events import Emit, Notice
from repotune.training.loss_scale import LossScale

LORA, OPTIMIZER, STATE, DIGESTS = (
    "lora.safetensors",
    "optimizer.safetensors",
    "state.json",
    "digests.json",
)
FORMAT = 4
"""Raised also when the same settings have another fingerprint."""
WHOLE = "; what was saved before is whole"
THEN = "the run goes on by itself, or later with --resume"
_NAME = re.compile(r"step-(\d{6,})")
_PART_BYTES = 2**22
"""Written at once: few calls of the disk, and a moment's work beside the training."""
_OVERHEAD_BYTES = 2**20
"""More than the headers, ``state.json`` and ``digests.json`` take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """How the loss on held-out code went so far."""

    step: int = 0
    """After this step it was lowest; 0: it was not measured yet."""
    loss: float | None = None
    """It was this then, mean nats per target."""
    measured: int = 0
    """The last step after which it was measured."""
    worse: int = 0
    """Measurements since the best one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state after ``step`` steps. Tensors are fp32, by the names of ``lora_state``.

    While the loop runs they are the live ones; after ``load`` they are copies of their own.
    """

    step: int
    cursor: int
    """The next position in the order of samples."""
    seed: int
    fingerprint: str
    """Of everything else that decides the next step: configuration, rows, base model."""
    tokens: int
    """Positions fed through the model since the run began, padding not counted."""
    first_loss: float
    """Of the run's first step, nats per target."""
    last_loss: float
    loss_scale: LossScale | None = None
    """None: gradients are not scaled."""
    lora: Mapping[str, Tensor]
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]
    best: Best = Best()
    about: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that tell people what the run is; nothing depends on them."""

    @property
    def skipped(self) -> int:
        """Steps that updated nothing, since their gradients overflowed fp16."""
        return 0 if self.loss_scale is None else self.loss_scale.skipped


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return folder / f"step-{step:06d}"


def prepare(
    folder: Path, lora: Mapping[str, Tensor], *, checkpoints: int, then: str = "go on with --resume"
) -> None:
    """Make ``folder``, remove what a crash left there, and see that the disk has room.

    A checkpoint takes the bytes of the weights three times (weights, two moments) and at most
    1 MiB. Raises DiskFull unless that many fit, RunError if the folder cannot be made; ``then`` is
    its last clause.
    """
    need = checkpoints * (3 * sum(tensor.nbytes for tensor in lora.values()) + _OVERHEAD_BYTES)
    with writing(folder, note=WHOLE):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        free = shutil.disk_usage(folder).free
    if need > free:
        raise DiskFull(
            f"Checkpoints need {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB is free in {folder}"
            f"{WHOLE}: free {(need - free) / 1e6:,.0f} MB more and {then}."
        )


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint`` into ``folder``; whatever goes wrong, those before it stay as they are.

    Raises DiskFull or RunError.
    """
    final = checkpoint_path(folder, checkpoint.step)
    partial = _hidden(final, "partial")
    prepare(folder, checkpoint.lora, checkpoints=1, then=THEN)
    with writing(final, note=WHOLE, then=THEN):
        try:
            partial.mkdir()
            digests = {}
            for name, parts in _CONTENTS.items():
                digests[name] = write_parts_durably(partial / name, parts(checkpoint))
            write_durably(partial / DIGESTS, _seal(digests))
            sync_folder(partial)
            if final.exists():  # a damaged one, or `latest` would have gone on from it
                final.replace(_hidden(final, "replaced"))
            partial.replace(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(folder)
    _remove_leftovers(folder)
    return final


def damages(folder: Path) -> dict[Path, str | None]:
    """Every checkpoint in ``folder``, newest first, and what is wrong with it, if anything."""
    paths = sorted(_checkpoints(folder), key=_step, reverse=True)
    return {path: damage_of(path) for path in paths}


def latest(folder: Path, emit: Emit) -> Path | None:
    """The newest checkpoint in ``folder`` that is whole, or None; damaged ones are named."""
    for path in sorted(_checkpoints(folder), key=_step, reverse=True):
        damage = damage_of(path)
        if damage is None:
            return path
        emit(Notice(message=f"Checkpoint {path.name} is not used: {damage}."))
    return None


def load(path: Path, *, like: Mapping[str, Tensor], fingerprint: str) -> Checkpoint:
    """Read the checkpoint at ``path`` for a model whose ``lora_state`` is ``like``.

    Raises CheckpointError if it is damaged, was made with another ``fingerprint``, or holds
    tensors of other names, shapes or types.
    """
    damage = damage_of(path)
    if damage is not None:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: {damage}; remove it to go on from the one before it."
        )
    state = json.loads((path / STATE).read_bytes())
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"Checkpoint {path} has format {state['format']}, and this version of repotune reads "
            f"format {FORMAT}: go on with the version that made it."
        )
    if state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"Checkpoint {path} was made with other settings, rows or another base model: "
            "put back what was changed, or start a new run."
        )
    scaling = state["loss_scale"]  # null where gradients are not scaled
    lora, moments = _tensors(path / LORA), _tensors(path / OPTIMIZER)
    _refuse_unlike(path / LORA, lora, like)
    _refuse_unlike(path / OPTIMIZER, moments, _moments(like, like))
    return Checkpoint(
        step=state["step"],
        cursor=state["cursor"],
        seed=state["seed"],
        tokens=state["tokens"],
        fingerprint=fingerprint,
        first_loss=state["first_loss"],
        last_loss=state["last_loss"],
        loss_scale=None if scaling is None else LossScale(**scaling),
        lora=lora,
        exp_avg={name: moments[f"{name}.exp_avg"] for name in like},
        exp_avg_sq={name: moments[f"{name}.exp_avg_sq"] for name in like},
        best=Best(**state["best"]),
        about=state["about"],
    )


def load_lora(path: Path, *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Only the LoRA matrices of the checkpoint at ``path``, for a model whose ``lora_state`` is
    like ``like``. Raises CheckpointError as ``load``."""
    damage = damage_of(path)
    if damage is not None:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: {damage}; choose another step, or leave it out."
        )
    lora = _tensors(path / LORA)
    _refuse_unlike(path / LORA, lora, like)
    return lora


def prune(folder: Path, keep: Collection[int]) -> None:
    """Remove all checkpoints but those of the steps in ``keep``, which are whole."""
    for path in _checkpoints(folder):
        if _step(path) not in keep:
            # What cannot be removed (open in a viewer on Windows) is tried again next time.
            with suppress(OSError):
                path.replace(_hidden(path, "removed"))
    _remove_leftovers(folder)


def _lora_parts(checkpoint: Checkpoint) -> Iterator[bytes]:
    return _safetensors_parts(checkpoint.lora)


def _optimizer_parts(checkpoint: Checkpoint) -> Iterator[bytes]:
    return _safetensors_parts(_moments(checkpoint.exp_avg, checkpoint.exp_avg_sq))


def _state_parts(checkpoint: Checkpoint) -> Iterator[bytes]:
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "cursor": checkpoint.cursor,
        "seed": checkpoint.seed,
        "tokens": checkpoint.tokens,
        "fingerprint": checkpoint.fingerprint,
        "first_loss": checkpoint.first_loss,
        "last_loss": checkpoint.last_loss,
        "best": asdict(checkpoint.best),
        "about": dict(checkpoint.about),
        "loss_scale": None if checkpoint.loss_scale is None else asdict(checkpoint.loss_scale),
    }
    yield json.dumps(state, indent=2, allow_nan=False).encode()


_CONTENTS: Mapping[str, Callable[[Checkpoint], Iterator[bytes]]] = {
    LORA: _lora_parts,
    OPTIMIZER: _optimizer_parts,
    STATE: _state_parts,
}
"""File -> what it holds, part by part, so that little of it lies in memory twice."""


def _safetensors_parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """The safetensors file of fp32 tensors: length and text of its header, then their bytes.

    The library makes it at once, and meanwhile no other thread runs: the training would stand still
    for a second. Its own errors, and those of its files, carry no errno either.
    """
    header, end = {}, 0
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    some, size = [struct.pack("<Q", len(text)) + text], 0
    for tensor in tensors.values():
        some.append(tensor.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
        size += tensor.nbytes
        if size >= _PART_BYTES:
            yield b"".join(some)
            some, size = [], 0
    yield b"".join(some)


def _moments(exp_avg: Mapping[str, Tensor], exp_avg_sq: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        **{f"{name}.exp_avg": tensor for name, tensor in exp_avg.items()},
        **{f"{name}.exp_avg_sq": tensor for name, tensor in exp_avg_sq.items()},
    }


def _seal(digests: Mapping[str, str]) -> bytes:
    return json.dumps({"sha256": dict(digests)}, indent=2).encode()


def damage_of(path: Path) -> str | None:
    """What is wrong with the checkpoint at ``path``, as a phrase, or None."""
    digests, sealed = {}, b""
    for name in (DIGESTS, *_CONTENTS):
        try:
            if name == DIGESTS:
                sealed = (path / name).read_bytes()
            else:
                digests[name] = _sha256_of(path / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    wrong = [name for name, digest in digests.items() if digest.encode() not in sealed]
    if wrong:
        return f"{' and '.join(wrong)} does not fit the SHA-256 in {DIGESTS}"
    return None if sealed == _seal(digests) else f"{DIGESTS} was changed"


def _sha256_of(path: Path) -> str:
    """Part by part, since another thread may want to run meanwhile."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _tensors(path: Path) -> dict[str, Tensor]:
    """One by one, for the same reason; copies, since a file that is mapped cannot be removed."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): remove {path.parent.name} to go on from the "
            "checkpoint before it."
        ) from None


def _refuse_unlike(path: Path, found: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless names, shapes and types of ``found`` are those of ``like``."""
    advice = "go on with the settings and the base model that it was made with."
    if found.keys() != like.keys():
        name = min(found.keys() ^ like.keys())
        where = "is in the checkpoint only" if name in found else "is missing"
        raise CheckpointError(f"{path} is of another model, where {name} {where}: {advice}")
    for name, tensor in found.items():
        wanted = like[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise CheckpointError(
                f"{path} is of another model: {name} is {_kind(tensor)} there and "
                f"{_kind(wanted)} here: {advice}"
            )


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _hidden(path: Path, why: str) -> Path:
    """A name beside ``path`` that is not a checkpoint's."""
    return path.with_name(f".{path.name}.{why}")


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
