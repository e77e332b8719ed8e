"""The weights of a model on disk, one tensor at a time, under Hugging Face's names.

All names and shapes are compared with what the architecture needs before any data is read, so a
checkpoint of another model is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from repotune.errors import ModelError
from repotune.gguf_file import GgufFile, open_gguf
from repotune.model.shape import gguf_shape, is_gguf, read_json, read_shape
from repotune.records import ModelRef, Shape

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of weight files that run code when they are read."""
DTYPES: Final = ("F64", "F32", "F16", "BF16")
"""Safetensors' names of the types that weights may have."""

GGUF_ROOTS: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
GGUF_PARTS: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Hugging Face's names of a layer's parts -> llama.cpp's."""


class WeightSource(Protocol):
    """Where the decoder gets its weights from."""

    @property
    def shape(self) -> Shape:
        """The architecture that the weights are of."""
        ...

    def names(self) -> Collection[str]:
        """Hugging Face's names of the tensors that ``read`` gives."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own. Raises ModelError if it cannot be read."""
        ...


def open_weights(ref: ModelRef, *, vocab_size: int | None = None) -> WeightSource:
    """The weights of the model at ``ref.path``, checked by name and shape, none read yet.

    ``vocab_size`` is more than the model has where it is taught tokens. Raises ModelError when
    files are missing or damaged, or hold other tensors than the model's configuration describes.
    """
    path = Path(ref.path)
    source = GgufWeights(open_gguf(path)) if is_gguf(path) else SafetensorsWeights(ref)
    if vocab_size is None or vocab_size == source.shape.vocab_size:
        return source
    return GrownWeights(source, vocab_size)


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model of this shape; linears are [out, in]."""
    width, inner = shape.hidden_size, shape.intermediate_size
    heads = shape.num_attention_heads * shape.head_dim
    kv_heads = shape.num_key_value_heads * shape.head_dim
    linears = {
        "self_attn.q_proj": (heads, width, shape.qkv_bias),
        "self_attn.k_proj": (kv_heads, width, shape.qkv_bias),
        "self_attn.v_proj": (kv_heads, width, shape.qkv_bias),
        "self_attn.o_proj": (width, heads, shape.o_bias),
        "mlp.gate_proj": (inner, width, shape.mlp_bias),
        "mlp.up_proj": (inner, width, shape.mlp_bias),
        "mlp.down_proj": (width, inner, shape.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape.vocab_size, width),
        "model.norm.weight": (width,),
    }
    if not shape.tie_word_embeddings:
        shapes["lm_head.weight"] = (shape.vocab_size, width)
    for index in range(shape.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
        for name, (rows, columns, has_bias) in linears.items():
            shapes[f"{layer}.{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{layer}.{name}.bias"] = (rows,)
    return shapes


class SafetensorsWeights:
    """A folder in Hugging Face layout: one safetensors file, or several and their index."""

    def __init__(self, ref: ModelRef) -> None:
        folder = Path(ref.path)
        self.shape = read_shape(ref)
        self._files: dict[str, Path] = {}
        found: dict[str, tuple[int, ...]] = {}
        for path in weight_files(folder):
            for name, size in _read_header(path).items():
                self._files[name] = path
                found[name] = size
        _compare(folder, tensor_shapes(self.shape), found)

    def names(self) -> Collection[str]:
        """See WeightSource."""
        return tensor_shapes(self.shape)

    def read(self, name: str) -> Tensor:
        """See WeightSource; the type is the file's."""
        path = self._files[name]
        try:
            with safe_open(path, framework="pt") as file:
                # The tensor is a view of the mapped file: a copy lets go of the mapping.
                tensor: Tensor = file.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from None
        return tensor


class GgufWeights:
    """A GGUF file of llama.cpp's ``llama`` architecture; tensors are dequantised to fp32."""

    def __init__(self, file: GgufFile) -> None:
        self.shape = gguf_shape(file)
        self._file = file
        self._names = {gguf_name(name): name for name in tensor_shapes(self.shape)}
        found = {self._names.get(name, name): info.shape for name, info in file.tensors.items()}
        _compare(file.path, tensor_shapes(self.shape), found)

    def names(self) -> Collection[str]:
        """See WeightSource."""
        return self._names.values()

    def read(self, name: str) -> Tensor:
        """See WeightSource."""
        tensor = torch.from_numpy(self._file.read(gguf_name(name)))
        if ".q_proj." in name:
            return _unpermuted(tensor, self.shape.num_attention_heads)
        if ".k_proj." in name:
            return _unpermuted(tensor, self.shape.num_key_value_heads)
        return tensor


class GrownWeights:
    """A model with rows for more tokens: each is the mean of those that are there.

    Of all that one row may be, the mean disturbs least: its probability is at most 1 / V, by
    Jensen's inequality.
    """

    def __init__(self, base: WeightSource, vocab_size: int) -> None:
        assert vocab_size > base.shape.vocab_size
        self.shape = replace(base.shape, vocab_size=vocab_size)
        self._base = base

    def names(self) -> Collection[str]:
        """See WeightSource."""
        return self._base.names()

    def read(self, name: str) -> Tensor:
        """See WeightSource."""
        tensor = self._base.read(name)
        if name not in ("model.embed_tokens.weight", "lm_head.weight"):
            return tensor
        mean = tensor.mean(0, dtype=torch.float32).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(self.shape.vocab_size - len(tensor), -1)])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in the order of their names.

    Raises ModelError when there are none, or one that the index names is missing.
    """
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not index.is_file():
        raise ModelError(
            f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}: "
            "download the model again, as safetensors."
        )
    names = shard_names(index)
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} lacks {name}, one of the {len(names)} weight files that {INDEX_FILE} "
                "names: download the model again."
            )
    return [folder / name for name in names]


def shard_names(index: Path) -> list[str]:
    """The files that an index names, in order. Raises ModelError if it is damaged."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ModelError(f"{index} has no weight_map: download the model again.")
    names = sorted(set(places.values()))
    for name in names:
        if re.fullmatch(r"[\w.-]+\.safetensors", name) is None:
            raise ModelError(f"{index} names {name!r}, which is no safetensors file beside it.")
    return names


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor; the library checks lengths and offsets against the file."""
    shapes = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the handle is no mapping
                part = file.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise ModelError(
                        f"{path} holds {name} as {part.get_dtype()}, and it must be one of "
                        f"{', '.join(DTYPES)}: use the original, unquantised checkpoint."
                    )
                shapes[name] = tuple(part.get_shape())
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    return shapes


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} is damaged ({error}): download the model again.")


def _compare(
    path: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a checkpoint that lacks a tensor, has one of another shape, or one too many."""
    for name, size in expected.items():
        if name not in found:
            raise ModelError(
                f"{path} lacks the tensor {name}, which its configuration asks for: "
                "download the model again."
            )
        if found[name] != size:
            raise ModelError(
                f"{path} has {name} as {list(found[name])}, and its configuration asks for "
                f"{list(size)}: configuration and weights are of different models."
            )
    for name in found:
        # Old checkpoints store the rotary frequencies; a tied head may be stored all the same.
        if name not in expected and not name.endswith("inv_freq") and name != "lm_head.weight":
            raise ModelError(
                f"{path} has the tensor {name}, which its configuration does not ask for: "
                "configuration and weights are of different models."
            )


def gguf_name(name: str) -> str:
    """llama.cpp's name: ``model.layers.3.mlp.up_proj.weight`` is ``blk.3.ffn_up.weight``."""
    stem, _, ending = name.rpartition(".")
    if stem in GGUF_ROOTS:
        return f"{GGUF_ROOTS[stem]}.{ending}"
    index, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{index}.{GGUF_PARTS[part]}.{ending}"


def permuted(tensor: Tensor, heads: int) -> Tensor:
    """q's or k's rows, [heads * head_dim, ...], in llama.cpp's order; see ``_unpermuted``."""
    rows = tensor.shape[0]
    halves = tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:]).transpose(1, 2)
    return halves.reshape(tensor.shape)


def _unpermuted(tensor: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of q's and k's rows within each head.

    Hugging Face rotates dimension i together with i + head_dim / 2, llama.cpp 2 i with 2 i + 1;
    its converter interleaves the halves (``LlamaModel.permute`` in convert_hf_to_gguf.py).
    """
    rows = tensor.shape[0]
    halves = tensor.reshape(heads, rows // heads // 2, 2, *tensor.shape[1:]).transpose(1, 2)
    return halves.reshape(tensor.shape)
