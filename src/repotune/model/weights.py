"""Reading weights tensor by tensor: safetensors in Hugging Face layout, and GGUF.

What a file claims is checked against its size and against the shape of the model before a tensor
is read, so a checkpoint of another architecture, a missing shard or a cut-off download is named
at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from repotune.errors import ModelError
from repotune.gguf_file import GgufFile, open_gguf
from repotune.model.shape import read_shape, shape_from_gguf
from repotune.records import ModelRef, Shape

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit; a header that claims more is an attack or damage."""
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Types of weights that can be read, with their bytes per number."""
INDEX = "model.safetensors.index.json"


class WeightSource(Protocol):
    """Weights under Hugging Face's names, read one at a time."""

    @property
    def shape(self) -> Shape:
        """The architecture that the weights belong to."""

    def names(self) -> Collection[str]:
        """``model.embed_tokens.weight``, …; ``lm_head.weight`` unless it is tied."""

    def read(self, name: str) -> Tensor:
        """One tensor, in the precision it is stored in (GGUF: fp32). Raises ModelError."""


def open_weights(ref: ModelRef) -> WeightSource:
    """The weights of ``ref``, complete and of the right shapes. Raises ModelError if not."""
    path = Path(ref.path)
    if path.is_file():
        return GgufWeights(open_gguf(path))
    return SafetensorsWeights(path, read_shape(ref))


def expected_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a model of this shape has."""
    d, i, v = shape.hidden_size, shape.intermediate_size, shape.vocab_size
    q = shape.num_attention_heads * shape.head_dim
    k = shape.num_key_value_heads * shape.head_dim
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d)}
    linears = {
        "self_attn.q_proj": (q, d, shape.qkv_bias), "self_attn.k_proj": (k, d, shape.qkv_bias),
        "self_attn.v_proj": (k, d, shape.qkv_bias), "self_attn.o_proj": (d, q, shape.o_bias),
        "mlp.gate_proj": (i, d, shape.mlp_bias), "mlp.up_proj": (i, d, shape.mlp_bias),
        "mlp.down_proj": (d, i, shape.mlp_bias),
    }  # fmt: skip
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] = (d,)
        tensors[f"{prefix}.post_attention_layernorm.weight"] = (d,)
        for name, (rows, columns, biased) in linears.items():
            tensors[f"{prefix}.{name}.weight"] = (rows, columns)
            if biased:
                tensors[f"{prefix}.{name}.bias"] = (rows,)
    tensors["model.norm.weight"] = (d,)
    if not shape.tie_word_embeddings:
        tensors["lm_head.weight"] = (v, d)
    return tensors


class SafetensorsWeights:
    """One or several ``.safetensors`` files in a folder."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.shape = shape
        self._folder = folder
        self._file_of: dict[str, Path] = {}
        found: dict[str, tuple[int, ...]] = {}
        for file in safetensors_files(folder):
            for name, size in read_header(file).items():
                self._file_of[name], found[name] = file, size
        _compare(found, expected_tensors(shape), folder)

    def names(self) -> Collection[str]:
        """The tensors of the model; what else the files hold is left alone."""
        return expected_tensors(self.shape).keys()

    def read(self, name: str) -> Tensor:
        """One tensor as it is stored."""
        file = self._file_of[name]
        try:
            with safe_open(file, framework="pt") as tensors:
                return tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{file} cannot be read ({error}): download the model again."
            ) from None


class GgufWeights:
    """A GGUF file of llama.cpp's "llama" architecture, under Hugging Face's names."""

    def __init__(self, file: GgufFile) -> None:
        self.shape = shape_from_gguf(file)
        self._file = file
        expected = expected_tensors(self.shape)
        present = {n: file.tensors.get(_gguf_name(n)) for n in expected}
        found = {name: info.shape for name, info in present.items() if info is not None}
        _compare(found, expected, file.path)

    def names(self) -> Collection[str]:
        """The tensors of the model, under Hugging Face's names."""
        return expected_tensors(self.shape).keys()

    def read(self, name: str) -> Tensor:
        """One tensor, dequantised to fp32."""
        tensor = torch.from_numpy(self._file.read(_gguf_name(name)).copy())
        if ".q_proj." in name:
            return _unpermuted(tensor, self.shape.num_attention_heads)
        if ".k_proj." in name:
            return _unpermuted(tensor, self.shape.num_key_value_heads)
        return tensor


_GGUF_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _gguf_name(name: str) -> str:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_GGUF_PARTS[part]}.{kind}"


def _unpermuted(tensor: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of a head's rows (pairs side by side) for Hugging Face's (halves)."""
    rows = tensor.shape[0]
    return tensor.view(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(tensor.shape)


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a folder: those of its index, or all. Raises ModelError if one lacks."""
    index = folder / INDEX
    if not index.exists():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder} has no .safetensors file: download the model again.")
        return files
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is damaged: download the model again.") from None
    plain = {name for name in named if isinstance(name, str) and Path(name).name == name}
    if named - plain:
        raise ModelError(f"{index} names files outside its folder: use another copy of the model.")
    missing = sorted(name for name in plain if not (folder / name).is_file())
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(plain)} weight files, the first is "
            f"{missing[0]}: download the model again."
        )
    return [folder / name for name in sorted(plain)]


def read_header(file: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a safetensors file, once its header is found sound.

    The format: 8 bytes of length, that many bytes of JSON, then the numbers.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(file, f"its header claims {length} bytes, the file has {size}")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise _damaged(file, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    room = size - 8 - length
    return {name: _entry(file, name, entry, room).shape for name, entry in header.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    shape: tuple[int, ...]


def _entry(file: Path, name: str, entry: Any, room: int) -> _Entry:
    """A tensor's line in the header: known type, and numbers that lie inside the file."""
    try:
        kind, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        count = torch.Size(shape).numel()
    except (KeyError, TypeError, ValueError):
        raise _damaged(file, f"the entry of {name!r} is not one") from None
    if not 0 <= begin <= end <= room:
        raise _damaged(file, f"{name!r} would end at byte {end} of {room}")
    if kind in DTYPES and (any(n < 0 for n in shape) or count * DTYPES[kind] != end - begin):
        raise _damaged(file, f"{name!r} does not fill its {end - begin} bytes")
    return _Entry(shape)


def _damaged(file: Path, what: str) -> ModelError:
    return ModelError(f"{file} is damaged ({what}): download the model again.")


def _compare(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} of {len(expected)} tensors, the first is {missing[0]}: "
            "the files are not those of its configuration; download the model again."
        )
    for name, size in expected.items():
        if found[name] != size:
            raise ModelError(
                f"{path}: {name} is {list(found[name])}, and the configuration asks for "
                f"{list(size)}: the files are not those of its configuration."
            )
