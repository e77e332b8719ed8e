"""The merged model as a folder in Hugging Face layout: safetensors, configuration, tokenizer.

The format of safetensors is written here, tensor by tensor (the library wants a whole file in
memory): the length of a JSON header, the header, the numbers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from repotune.durable import sync_file, write_durably
from repotune.errors import ExportError
from repotune.model import WeightSource
from repotune.model.shape import CONFIG_FILE, is_gguf, read_config, read_json
from repotune.model.weights import INDEX_FILE, SINGLE_FILE, tensor_shapes
from repotune.records import ModelRef, RopeScaling, Shape
from repotune.tokens import CodeTokenizer
from repotune.tokens.hf_files import hf_files

SHARD_BYTES: Final = 5 * 10**9
GENERATION: Final = "generation_config.json"
ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
TYPES: Final = {torch.float16: ("F16", "float16"), torch.bfloat16: ("BF16", "bfloat16")}
"""safetensors' name and PyTorch's."""


def merged_bytes(shape: Shape) -> int:
    """What the merged weights take on disk, 2 bytes a number."""
    return 2 * sum(prod(size) for size in tensor_shapes(shape).values())


def sixteen_bits(base: ModelRef, source: WeightSource) -> torch.dtype:
    """The type of the merged weights: the base's own, bf16 for one of 32 bits, fp16 for a
    quantised GGUF file, whose scales are fp16 themselves."""
    if is_gguf(Path(base.path)):
        return torch.float16
    stored = source.read("model.norm.weight").dtype
    return stored if stored in TYPES else torch.bfloat16


def write_merged(
    folder: Path, source: WeightSource, base: ModelRef, tokenizer: CodeTokenizer, *,
    dtype: torch.dtype, wrote: Callable[[int], None], shard_bytes: int = SHARD_BYTES,
) -> None:  # fmt: skip
    """Write all but the model card into ``folder``; ``wrote(bytes)`` is told after each tensor.

    One tensor is in memory at a time. Raises ExportError for a weight too large for ``dtype``,
    OSError if something cannot be written.
    """
    _write_weights(folder, source, dtype, wrote, shard_bytes)
    path = Path(base.path)
    texts: dict[str, Any] = {
        CONFIG_FILE: _config(path, source.shape, tokenizer, TYPES[dtype][1]),
        GENERATION: _generation(path, tokenizer),
    }
    for name, content in texts.items():
        write_durably(folder / name, json.dumps(content, indent=2).encode())
    for name, data in hf_files(path, add_fim=bool(tokenizer.added_ids)).items():
        write_durably(folder / name, data)


def _write_weights(
    folder: Path, source: WeightSource, dtype: torch.dtype, wrote: Callable[[int], None],
    shard_bytes: int,
) -> None:  # fmt: skip
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, size in tensor_shapes(source.shape).items():
        if filled and filled + 2 * prod(size) > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = size
        filled += 2 * prod(size)
    names = [
        SINGLE_FILE if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    for file, shard in zip(names, shards, strict=True):
        _write_shard(folder / file, shard, source, dtype, wrote)
    if len(shards) > 1:
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": merged_bytes(source.shape)}, "weight_map": places}
        write_durably(folder / INDEX_FILE, json.dumps(index, indent=2).encode())


def _write_shard(
    path: Path, tensors: Mapping[str, tuple[int, ...]], source: WeightSource, dtype: torch.dtype,
    wrote: Callable[[int], None],
) -> None:  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in tensors.items():
        end = at + 2 * prod(size)
        header[name] = {"dtype": TYPES[dtype][0], "shape": size, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in tensors:
            stored = _rounded(name, source.read(name), dtype)
            file.write(stored.view(torch.int16).numpy().data)
            wrote(stored.nbytes)
    sync_file(path)


def _rounded(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    stored = weight.to(dtype).contiguous()
    if not torch.isfinite(stored).all():
        raise ExportError(
            f"{name} has weights that {TYPES[dtype][1]} has no room for, or that are no numbers: "
            "the training went wrong, so tune again with a lower learning_rate."
        )
    return stored


def _config(path: Path, shape: Shape, tokenizer: CodeTokenizer, dtype: str) -> dict[str, Any]:
    if not is_gguf(path):
        config = read_config(path)
        config["vocab_size"] = shape.vocab_size
        return {**config, "dtype" if "dtype" in config else "torch_dtype": dtype}
    return {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "model_type": shape.model_type,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": _scaling(shape.rope_scaling),
        "max_position_embeddings": shape.max_position_embeddings,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "attention_bias": shape.o_bias,
        "mlp_bias": shape.mlp_bias,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "torch_dtype": dtype,
    }


def _scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """A GGUF header says no other stretching than the linear one (``model.shape``)."""
    return None if scaling is None else {"rope_type": scaling.kind, "factor": scaling.factor}


def _generation(path: Path, tokenizer: CodeTokenizer) -> dict[str, Any]:
    """The base's own settings, and every token that ends a completion as a stop."""
    own = {} if is_gguf(path) or not (path / GENERATION).is_file() else read_json(path / GENERATION)
    stated = own.get("eos_token_id")
    stops = {stated} if isinstance(stated, int) else set(stated or ())
    return {
        **own,
        "bos_token_id": own.get("bos_token_id", tokenizer.bos_id),
        "eos_token_id": sorted(stops | tokenizer.stop_ids),
    }
