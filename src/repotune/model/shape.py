"""The architecture of a model from its ``config.json`` or its GGUF header; no torch.

Keys, defaults and their precedence are those of transformers' configuration classes for the three
families, so that a checkpoint means the same here and there. Whatever the decoder does not compute
exactly is refused by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from repotune.errors import ModelError
from repotune.gguf_file import GgufFile, open_gguf
from repotune.records import ModelRef, RopeScaling, Shape

CONFIG_FILE: Final = "config.json"
MAX_CONFIG_BYTES: Final = 10_000_000
MAX_LAYERS: Final = 1_000
MAX_SIZE: Final = 2**31 - 1
DEFAULT_ROPE_THETA: Final = 10_000.0
SILU: Final = ("silu", "swish")

ModelType: TypeAlias = Literal["llama", "mistral", "qwen2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What a configuration of the family means where it is silent."""

    model_type: ModelType
    num_key_value_heads: int | None
    """None: as many as attention heads."""
    max_position_embeddings: int
    sliding_window: int | None


FAMILIES: Final[dict[str, _Family]] = {
    family.model_type: family
    for family in (
        _Family(
            model_type="llama",
            num_key_value_heads=None,
            max_position_embeddings=2048,
            sliding_window=None,
        ),
        _Family(
            model_type="mistral",
            num_key_value_heads=8,
            max_position_embeddings=131_072,
            sliding_window=4096,
        ),
        _Family(
            model_type="qwen2",
            num_key_value_heads=32,
            max_position_embeddings=32_768,
            sliding_window=4096,
        ),
    )
}
"""Source: transformers 5, ``configuration_{llama,mistral,qwen2}.py``."""


def read_shape(ref: ModelRef) -> Shape:
    """The shape of the model at ``ref.path``.

    Raises ModelError when the description is missing or damaged, or the architecture is not one
    that the decoder computes.
    """
    path = Path(ref.path)
    if is_gguf(path):
        return gguf_shape(open_gguf(path))
    return config_shape(read_config(path), path / CONFIG_FILE)


def is_gguf(path: Path) -> bool:
    """Whether ``path`` is that of a GGUF file, by its name."""
    return path.suffix.lower() == ".gguf"


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's ``config.json``. Raises ModelError if there is none or it is damaged."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} has no {CONFIG_FILE}: give a folder in Hugging Face layout, "
            "with config.json, *.safetensors and the tokenizer."
        )
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object of a model folder. Raises ModelError if it cannot be read."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(
                f"{path} has {path.stat().st_size:,} bytes, more than the {MAX_CONFIG_BYTES:,} "
                "that such a file may have: download the model again."
            )
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object: download the model again.")
    return value


def config_shape(config: Mapping[str, Any], path: Path) -> Shape:
    """The shape that a ``config.json`` describes; ``path`` is for the messages.

    Raises ModelError for another architecture, for remote code, for a quantised checkpoint, and
    for values that cannot be.
    """
    values = _Values(path, config)
    family = _family(values)
    _refuse_what_differs(values)
    heads = values.whole("num_attention_heads")
    hidden = values.whole("hidden_size")
    max_positions = values.whole("max_position_embeddings", family.max_position_embeddings)
    layers = values.whole("num_hidden_layers", limit=MAX_LAYERS)
    is_llama = family.model_type == "llama"
    llama_bias = is_llama and values.flag("attention_bias")
    theta, scaling = _rope(values, max_positions)
    return _checked(
        path,
        Shape(
            model_type=family.model_type,
            vocab_size=values.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=values.whole("intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=_key_value_heads(values, family, heads),
            head_dim=values.whole("head_dim", _head_dim(hidden, heads)),
            rms_norm_eps=values.number("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            max_position_embeddings=max_positions,
            tie_word_embeddings=values.flag("tie_word_embeddings"),
            qkv_bias=llama_bias or family.model_type == "qwen2",
            o_bias=llama_bias,
            mlp_bias=is_llama and values.flag("mlp_bias"),
            sliding_window=_sliding_window(values, family, layers),
        ),
    )


def gguf_shape(file: GgufFile) -> Shape:
    """The shape that a GGUF header describes, under llama.cpp's names.

    Raises ModelError for another architecture than ``llama`` and for values that cannot be.
    """
    values = _Values(file.path, file.metadata)
    architecture = file.metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelError(
            f"{file.path} is of the architecture {architecture!r}, and of GGUF files only llama's "
            f"can be trained: use the model's folder in Hugging Face layout ({_families()})."
        )
    if values.whole("llama.expert_count", 0, least=0):
        raise ModelError(f"{file.path} is a mixture of experts, which cannot be trained here.")
    parts = values.whole("split.count", 1, least=0)
    if parts > 1:
        raise ModelError(
            f"{file.path} is one of {parts} parts: merge them with llama.cpp's gguf-split."
        )
    heads = values.whole("llama.attention.head_count")
    hidden = values.whole("llama.embedding_length")
    head_dim = values.whole("llama.attention.key_length", _head_dim(hidden, heads))
    rotary = values.whole("llama.rope.dimension_count", head_dim)
    if rotary != head_dim:
        raise ModelError(
            f"{file.path} rotates {rotary} of {head_dim} dimensions of a head, and all must be: "
            "use another model."
        )
    tokens = file.metadata.get("tokenizer.ggml.tokens", [])
    return _checked(
        file.path,
        Shape(
            model_type="llama",
            vocab_size=values.whole("llama.vocab_size", len(tokens) or None),
            hidden_size=hidden,
            intermediate_size=values.whole("llama.feed_forward_length"),
            num_hidden_layers=values.whole("llama.block_count", limit=MAX_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=values.whole("llama.attention.head_count_kv", heads),
            head_dim=head_dim,
            rms_norm_eps=values.number("llama.attention.layer_norm_rms_epsilon"),
            rope_theta=values.number("llama.rope.freq_base", DEFAULT_ROPE_THETA),
            rope_scaling=_gguf_scaling(file, values),
            max_position_embeddings=values.whole("llama.context_length"),
            tie_word_embeddings="output.weight" not in file.tensors,
            qkv_bias="blk.0.attn_q.bias" in file.tensors,
            o_bias="blk.0.attn_output.bias" in file.tensors,
            mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Values:
    """Typed look-ups in a description from outside; a null counts as absent."""

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def whole(
        self, key: str, default: int | None = None, *, least: int = 1, limit: int = MAX_SIZE
    ) -> int:
        value = self.get(key, default)
        if value is None:
            raise self._missing(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= limit:
            raise self.wrong(key, value, f"a whole number from {least} to {limit:,}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if value is None:
            raise self._missing(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            raise self.wrong(key, value, "a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def wrong(self, key: str, value: object, allowed: str) -> ModelError:
        shown = str(value)[:40]
        return ModelError(f"{self.path} says {key} = {shown}, and it must be {allowed}.")

    def _missing(self, key: str) -> ModelError:
        return ModelError(f"{self.path} does not say {key}: download the model again.")


def _families() -> str:
    return f"model_type {', '.join(FAMILIES)}"


def _family(values: _Values) -> _Family:
    if values.get("auto_map"):
        raise ModelError(
            f"{values.path} asks for code of its own (auto_map), which is never run: use a model "
            f"of a known family ({_families()})."
        )
    name = values.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise ModelError(
            f"{values.path} is of the architecture {name!r}, which cannot be trained: "
            f"use a model of a known family ({_families()})."
        )
    return family


def _refuse_what_differs(values: _Values) -> None:
    quantisation = values.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        raise ModelError(
            f"{values.path} is of a checkpoint that is already quantised ({method or 'unknown'}): "
            "use the original one in 16 bits; use_4bit quantises it while loading."
        )
    activation = values.get("hidden_act", "silu")
    if activation not in SILU:
        raise values.wrong("hidden_act", activation, "silu")


def _key_value_heads(values: _Values, family: _Family, heads: int) -> int:
    # As in transformers, a null means "as many as heads", an absent key the family's default.
    if "num_key_value_heads" in values.values or family.num_key_value_heads is None:
        return values.whole("num_key_value_heads", heads)
    return family.num_key_value_heads


def _head_dim(hidden: int, heads: int) -> int | None:
    """The width of a head where nothing else is said, or None if that does not come out even."""
    return hidden // heads if hidden % heads == 0 else None


def _sliding_window(values: _Values, family: _Family, layers: int) -> int | None:
    """The window of every layer, None for all; windows that differ by layer are refused."""
    if family.sliding_window is None:
        return None
    if "sliding_window" in values.values and values.get("sliding_window") is None:
        return None
    window = values.whole("sliding_window", family.sliding_window)
    if family.model_type == "mistral":
        return window
    if not values.flag("use_sliding_window"):
        return None
    first = values.whole("max_window_layers", 28, least=0)
    kinds = values.get(
        "layer_types",
        ["sliding_attention" if i >= first else "full_attention" for i in range(layers)],
    )
    if all(kind == "full_attention" for kind in kinds):
        return None
    if not all(kind == "sliding_attention" for kind in kinds):
        raise ModelError(
            f"{values.path} has a sliding window in some of its layers only, which cannot be "
            "trained: set use_sliding_window to false in it if documents stay below "
            f"{window:,} tokens."
        )
    return window


def _rope(values: _Values, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Base and stretching of the rotary positions, from either generation of keys."""
    stated = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(stated, dict) or any(isinstance(v, dict) for v in stated.values()):
        raise values.wrong("rope_parameters", stated, "one set of values for all layers")
    rope = _Values(values.path, stated)
    theta = rope.number("rope_theta", values.number("rope_theta", DEFAULT_ROPE_THETA))
    partial = rope.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise values.wrong("partial_rotary_factor", partial, "1")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=rope.number("factor"))
    if kind != "llama3":
        raise values.wrong("rope_type", kind, "default, linear or llama3")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise values.wrong("low_freq_factor", low, f"below high_freq_factor, {high}")
    outer = values.get("original_max_position_embeddings")
    key = "original_max_position_embeddings"
    return theta, RopeScaling(
        kind="llama3",
        factor=rope.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=(
            rope.whole(key, max_positions) if outer is None else values.whole(key)
        ),
    )


def _gguf_scaling(file: GgufFile, values: _Values) -> RopeScaling | None:
    if "rope_freqs.weight" in file.tensors:
        # The header holds the stretched frequencies only, not Llama 3.1's parameters.
        raise ModelError(
            f"{file.path} stretches its positions by a table (rope_freqs), which cannot be "
            "trained: use the model's folder in Hugging Face layout."
        )
    kind = values.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise values.wrong("llama.rope.scaling.type", kind, "none or linear")
    return RopeScaling(kind="linear", factor=values.number("llama.rope.scaling.factor"))


def _checked(path: Path, shape: Shape) -> Shape:
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
    if heads % kv_heads:
        raise ModelError(
            f"{path} says {heads} attention heads and {kv_heads} key/value heads, and the first "
            "must be a multiple of the second."
        )
    if shape.head_dim % 2:
        raise ModelError(f"{path} says head_dim = {shape.head_dim}, and it must be even.")
    return shape
