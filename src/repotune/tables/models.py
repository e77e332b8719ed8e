"""The table of models that plan without a network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from repotune.records import KnownModel, RopeScaling, Shape
from repotune.tables.toml_file import read_table


@cache
def models() -> tuple[KnownModel, ...]:
    """All known models, one entry for each hub id."""
    return tuple(
        KnownModel(
            name=name,
            shape=_shape(entry["config"]),
            parameters=entry["parameters"],
            download_bytes=entry["download_bytes"],
            licence=entry["licence"],
            code=entry["code"],
            fim=entry.get("fim"),
            source=entry["source"],
            date=entry["date"],
        )
        for entry in read_table("models.toml")["model"]
        for name in entry["names"]
    )


def known_model(name: str) -> KnownModel | None:
    """The model with exactly this hub id, in any case, or None: the id is never guessed at."""
    return _by_name().get(name.lower())


@cache
def _by_name() -> dict[str, KnownModel]:
    return {model.name.lower(): model for model in models()}


def _shape(config: Mapping[str, Any]) -> Shape:
    """The shape from the keys of ``config.json``, which the table gives in full."""
    model_type = config["model_type"]
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    scaling = config.get("rope_scaling")
    return Shape(
        model_type=model_type,
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim", hidden // heads),
        rms_norm_eps=config["rms_norm_eps"],
        rope_theta=config["rope_theta"],
        rope_scaling=None if scaling is None else _rope_scaling(scaling),
        max_position_embeddings=config["max_position_embeddings"],
        tie_word_embeddings=config["tie_word_embeddings"],
        # Qwen2's config.json does not say so: the family always has it.
        qkv_bias=model_type == "qwen2",
        o_bias=False,
        mlp_bias=False,
        sliding_window=config.get("sliding_window"),
    )


def _rope_scaling(scaling: Mapping[str, Any]) -> RopeScaling:
    values = {key: value for key, value in scaling.items() if key != "rope_type"}
    return RopeScaling(kind=scaling["rope_type"], **values)
