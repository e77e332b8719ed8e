"""``records.Shape`` from a model's own description; no torch, no weights.

What is not of the Llama family is refused here, by name, before anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from repotune.errors import ModelError
from repotune.gguf_file import GgufFile, open_gguf
from repotune.records import ModelRef, RopeScaling, Shape

FAMILIES: dict[str, Literal["llama", "mistral", "qwen2"]] = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
}
"""``model_type`` -> family. CodeLlama, DeepSeek-Coder, Yi-Coder and SmolLM2 say "llama"."""
TRAINABLE = "Llama, Mistral and Qwen2 models (CodeLlama, DeepSeek-Coder, Yi-Coder, SmolLM2 …)"
KV_HEADS_DEFAULT = {"mistral": 8, "qwen2": 32}
"""What transformers' configuration classes assume when the key is absent; Llama: the heads."""


def read_shape(ref: ModelRef) -> Shape:
    """The shape of the model at ``ref.path``. Raises ModelError if it cannot be trained here."""
    path = Path(ref.path)
    if path.is_file():
        return shape_from_gguf(open_gguf(path))
    return shape_from_config(read_config(path), path / "config.json")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as it is. Raises ModelError if it is missing or damaged."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): give a folder in Hugging Face layout."
        ) from None
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}): download the model again.") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a model's configuration: download the model again.")
    return config


def shape_from_config(config: Mapping[str, Any], path: Path) -> Shape:
    """The shape that a Hugging Face ``config.json`` describes, with transformers' defaults."""
    refuse_foreign(config, path)
    family = FAMILIES[config["model_type"]]
    reader = _Reader(config, path)
    hidden = reader.count("hidden_size")
    heads = reader.count("num_attention_heads")
    kv_heads = reader.count("num_key_value_heads", KV_HEADS_DEFAULT.get(family, heads))
    if heads % kv_heads:
        raise reader.wrong(f"{heads} heads cannot share {kv_heads} key/value heads")
    if hidden % heads and not config.get("head_dim"):
        raise reader.wrong(f"hidden_size {hidden} is not a multiple of {heads} heads")
    biased = bool(config.get("attention_bias", False)) and family == "llama"
    return Shape(
        model_type=family,
        vocab_size=reader.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=reader.count("intermediate_size"),
        num_hidden_layers=reader.count("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=reader.count("head_dim", hidden // heads),
        rms_norm_eps=reader.number("rms_norm_eps", 1e-6),
        rope_theta=reader.rope_theta(),
        rope_scaling=reader.rope_scaling(),
        max_position_embeddings=reader.count("max_position_embeddings", 2048),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=biased or family == "qwen2",
        o_bias=biased,
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
        sliding_window=_sliding_window(family, config, reader),
    )


def refuse_foreign(config: Mapping[str, Any], path: Path) -> None:
    """Raise ModelError for what must not or cannot be loaded, saying which it is."""
    if "auto_map" in config:
        raise ModelError(
            f"{path} asks for code of the model's own (auto_map), which repotune never runs: "
            f"choose one of the {TRAINABLE}."
        )
    if config.get("quantization_config"):
        method = dict(config["quantization_config"]).get("quant_method", "unknown")
        raise ModelError(
            f"{path} describes weights that are already quantised ({method}): give the original "
            "16-bit model."
        )
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ModelError(f"{path} describes a {kind!r} model, and repotune trains {TRAINABLE}.")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(
            f"{path} has the activation {config['hidden_act']!r}, and repotune trains {TRAINABLE}."
        )


def _sliding_window(family: str, config: Mapping[str, Any], reader: _Reader) -> int | None:
    """Mistral: the key, 4096 where it is absent; Qwen2: only with ``use_sliding_window``."""
    if family == "mistral":
        value = config.get("sliding_window", 4096)
        return None if value is None else reader.count("sliding_window", 4096)
    if family == "qwen2" and config.get("use_sliding_window"):
        raise reader.wrong("use_sliding_window is on, and a window per layer is not supported")
    return None


class _Reader:
    """Typed access to a configuration; every complaint names the file and the key."""

    def __init__(self, config: Mapping[str, Any], path: Path) -> None:
        self._config, self._path = config, path
        stretched = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(stretched, dict):
            raise self.wrong(f"its rope parameters are {stretched!r}")
        self._rope: Mapping[str, Any] = stretched

    def wrong(self, what: str) -> ModelError:
        return ModelError(f"{self._path}: {what}; download the model again or choose another.")

    def count(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        value = default if value is None else value
        if type(value) is not int or value <= 0:
            raise self.wrong(f"{key} is {value!r} instead of a whole number above 0")
        return value

    def number(self, key: str, default: float, source: Mapping[str, Any] | None = None) -> float:
        value = (self._config if source is None else source).get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.wrong(f"{key} is {value!r} instead of a number above 0")
        return float(value)

    def rope_theta(self) -> float:
        top = self.number("rope_theta", 10_000.0)
        return self.number("rope_theta", top, self._rope)

    def rope_scaling(self) -> RopeScaling | None:
        kind = self._rope.get("rope_type", self._rope.get("type", "default"))
        if kind == "default":
            return None
        if kind == "linear":
            return RopeScaling(kind="linear", factor=self.number("factor", 1.0, self._rope))
        if kind == "llama3":
            return RopeScaling(
                kind="llama3",
                factor=self.number("factor", 8.0, self._rope),
                low_freq_factor=self.number("low_freq_factor", 1.0, self._rope),
                high_freq_factor=self.number("high_freq_factor", 4.0, self._rope),
                original_max_position_embeddings=int(
                    self.number("original_max_position_embeddings", 8192, self._rope)
                ),
            )
        raise self.wrong(f"rope scaling {kind!r} is not supported (default, linear, llama3 are)")


def shape_from_gguf(file: GgufFile) -> Shape:
    """The shape in a GGUF file's metadata (llama.cpp's key names); architecture "llama" only."""
    architecture = file.metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelError(
            f"{file.path} holds a {architecture!r} model, and from GGUF repotune reads 'llama': "
            "give the model in Hugging Face layout."
        )
    reader = _Reader(file.metadata, file.path)
    hidden = reader.count("llama.embedding_length")
    heads = reader.count("llama.attention.head_count")
    scaling = file.metadata.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "linear") or "rope_freqs.weight" in file.tensors:
        raise reader.wrong("its rope scaling cannot be read from GGUF")
    linear = scaling == "linear"
    factor = reader.number("llama.rope.scaling.factor", 1.0)
    vocabulary = file.tensors.get("token_embd.weight")
    if vocabulary is None:
        raise reader.wrong("it has no tensor token_embd.weight")
    return Shape(
        model_type="llama",
        vocab_size=vocabulary.shape[0],
        hidden_size=hidden,
        intermediate_size=reader.count("llama.feed_forward_length"),
        num_hidden_layers=reader.count("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=reader.count("llama.attention.head_count_kv", heads),
        head_dim=reader.count("llama.attention.key_length", hidden // heads),
        rms_norm_eps=reader.number("llama.attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=reader.number("llama.rope.freq_base", 10_000.0),
        rope_scaling=RopeScaling(kind="linear", factor=factor) if linear else None,
        max_position_embeddings=reader.count("llama.context_length", 2048),
        tie_word_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        o_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
    )
