"""Shapes from descriptions: transformers' own defaults, and what is refused."""

import json

import gguf
import pytest
import transformers

from repotune.errors import ModelError
from repotune.model import read_shape
from repotune.records import ModelRef, RopeScaling

FAMILIES = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config"}
SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 32,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def shape_of(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return read_shape(ModelRef(name="m", revision=None, path=str(folder), digest=""))


def reference(family, options):
    return getattr(transformers, FAMILIES[family])(**options)


def assert_same(shape, config):
    for name in (
        *SIZES, "num_key_value_heads", "rms_norm_eps", "max_position_embeddings",
        "tie_word_embeddings",
    ):  # fmt: skip
        assert getattr(shape, name) == getattr(config, name), name
    stated_width = config.to_dict().get("head_dim")
    assert shape.head_dim == (stated_width or config.hidden_size // config.num_attention_heads)
    assert shape.rope_theta == config.rope_parameters["rope_theta"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_configuration_leaves_out_means_what_it_means_to_transformers(family, tmp_path):
    shape = shape_of(tmp_path, {"model_type": family, **SIZES})
    config = reference(family, SIZES)
    assert shape.model_type == family
    assert_same(shape, config)
    assert shape.rope_scaling is None
    assert shape.qkv_bias == (family == "qwen2")
    assert not shape.o_bias and not shape.mlp_bias
    # Qwen2 has a window's width by default, and does not use it.
    assert shape.sliding_window == (config.sliding_window if family == "mistral" else None)


OPTIONS = {
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "grouped heads": ("llama", {"num_key_value_heads": 4, "rope_theta": 5e5}),
    "as many key/value heads, as null": ("llama", {"num_key_value_heads": None}),
    "wide heads": ("llama", {"head_dim": 48}),
    "tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 8}),
    "rope_theta beside rope_parameters": (
        "mistral",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "no window": ("mistral", {"sliding_window": None}),
    "small numbers": ("llama", {"rms_norm_eps": 1e-5, "max_position_embeddings": 16_384}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_mean_what_they_mean_to_transformers(case, tmp_path):
    family, options = OPTIONS[case]
    config = reference(family, {**SIZES, **options})
    # As the user's file states it, and as transformers writes it again.
    for description in ({"model_type": family, **SIZES, **options}, config.to_dict()):
        shape = shape_of(tmp_path, description)
        assert_same(shape, config)
        assert shape.mlp_bias == shape.o_bias == ("biases" in case)
        if family == "mistral":
            assert shape.sliding_window == config.sliding_window


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"type": "linear", "factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"rope_type": "linear", "factor": 2}, RopeScaling(kind="linear", factor=2.0)),
        ({"rope_type": "default"}, None),
        (None, None),
        (LLAMA3, RopeScaling(kind="llama3", factor=8.0)),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_both_generations_of_rope_keys_are_read(key, rope, scaling, tmp_path):
    config = {"model_type": "llama", **SIZES, key: rope, "rope_theta": 1e5}
    shape = shape_of(tmp_path, config)
    assert (shape.rope_scaling, shape.rope_theta) == (scaling, 1e5)


def test_a_window_of_all_layers_is_read_and_one_of_some_is_refused(tmp_path):
    qwen = {"model_type": "qwen2", **SIZES, "use_sliding_window": True, "sliding_window": 100}
    assert shape_of(tmp_path, {**qwen, "max_window_layers": 0}).sliding_window == 100
    assert shape_of(tmp_path, {**qwen, "max_window_layers": 3}).sliding_window is None
    with pytest.raises(ModelError, match="in some of its layers only"):
        shape_of(tmp_path, {**qwen, "max_window_layers": 1})
    for first in (0, 1, 3):  # transformers derives the same from the same numbers
        kinds = reference("qwen2", {**qwen, "max_window_layers": first}).layer_types
        assert kinds.count("sliding_attention") == 3 - first


REFUSED = {
    "code of its own": ({"auto_map": {"AutoModel": "modeling.Model"}}, "auto_map.*never run"),
    "another family": ({"model_type": "gpt_bigcode"}, "architecture 'gpt_bigcode'"),
    "no family": ({"model_type": None}, "architecture None"),
    "a list as family": ({"model_type": ["llama"]}, "architecture .'llama'"),
    "quantised": ({"quantization_config": {"quant_method": "gptq"}}, r"already quantised \(gptq\)"),
    "quantised, oddly": ({"quantization_config": [1]}, r"already quantised \(unknown\)"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act = gelu, and it must be silu"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = yarn"),
    "part of the dimensions": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "rope by layer type": ({"rope_parameters": {"full": {"rope_theta": 1.0}}}, "one set of values"),
    "rope as text": ({"rope_scaling": "linear"}, "one set of values"),
    "a factor of 0": ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor = 0"),
    "a ramp upside down": (
        {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}},
        "low_freq_factor = 4.0, and it must be below",
    ),
    "no size": ({"hidden_size": None}, "does not say hidden_size"),
    "negative": ({"num_hidden_layers": -1}, "num_hidden_layers = -1"),
    "none": ({"num_attention_heads": 0}, "num_attention_heads = 0"),
    "too many layers": ({"num_hidden_layers": 10**9}, "a whole number from 1 to 1,000"),
    "too wide": ({"hidden_size": 10**30}, "whole number from 1 to 2,147,483,647"),
    "text": ({"vocab_size": "32000"}, "vocab_size = 32000"),
    "true": ({"vocab_size": True}, "vocab_size = True"),
    "not a number": ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
    "infinite": ({"rope_theta": float("inf")}, "rope_theta = inf"),
    "a flag as text": ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = yes"),
    "an uneven head": ({"num_attention_heads": 31}, "head_dim"),
    "an odd head": ({"head_dim": 7}, "head_dim = 7, and it must be even"),
    "groups that do not come out": ({"num_key_value_heads": 5}, "multiple of the second"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_decoder_does_not_compute_is_refused_by_name(case, tmp_path):
    changes, words = REFUSED[case]
    with pytest.raises(ModelError, match=words) as caught:
        shape_of(tmp_path, {"model_type": "llama", **SIZES, **changes})
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "family",
    [
        "mixtral", "qwen2_moe", "qwen3", "deepseek_v3", "starcoder2", "gpt_bigcode", "gpt_neox",
        "codegen", "gemma", "gemma2", "phi", "phi3", "falcon", "mamba", "rwkv", "t5", "bert",
    ],
)  # fmt: skip
def test_other_architectures_are_refused_by_name_with_the_known_ones(family, tmp_path):
    config = transformers.CONFIG_MAPPING[family]().to_dict()
    with pytest.raises(ModelError) as refused:
        shape_of(tmp_path, json.loads(json.dumps(config, default=str)))
    assert str(refused.value) == (
        f"{tmp_path / 'config.json'} is of the architecture '{family}', which cannot be trained: "
        "use a model of a known family (model_type llama, mistral, qwen2)."
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not a JSON object"),
        (b"[1]", "is not a JSON object"),
        (b"\xff\xfe{", "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
        (b" " * 10_000_001, "10,000,001 bytes, more than the 10,000,000"),
    ],
)
def test_a_damaged_or_huge_configuration_is_refused(text, words, tmp_path):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ModelError, match=words):
        read_shape(ModelRef(name="m", revision=None, path=str(tmp_path), digest=""))


GGUF = {
    "llama.block_count": 3, "llama.context_length": 64, "llama.embedding_length": 64,
    "llama.feed_forward_length": 96, "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
}  # fmt: skip


def gguf_shape(path, *, architecture="llama", tokens=("a", "b"), texts=None, **numbers):
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (GGUF | {"llama.attention.layer_norm_rms_epsilon": 1e-5} | numbers).items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for key, value in (texts or {}).items():
        writer.add_string(key, value)
    writer.add_token_list(list(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_shape(ModelRef(name="m", revision=None, path=str(path), digest=""))


def test_a_gguf_header_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    shape = gguf_shape(path, tokens=["a", "b", "c"])
    assert (shape.vocab_size, shape.hidden_size, shape.intermediate_size) == (3, 64, 96)
    assert (shape.num_hidden_layers, shape.num_attention_heads) == (3, 8)
    assert (shape.num_key_value_heads, shape.head_dim) == (2, 8)
    assert (shape.rope_theta, shape.rope_scaling) == (10_000.0, None)
    assert shape.rms_norm_eps == pytest.approx(1e-5, rel=1e-6)  # fp32 in the file
    linear = gguf_shape(
        path,
        texts={"llama.rope.scaling.type": "linear"},
        **{"llama.rope.scaling.factor": 4.0, "llama.rope.freq_base": 1e6, "llama.vocab_size": 9},
    )
    assert linear.rope_scaling == RopeScaling(kind="linear", factor=4.0)
    assert (linear.rope_theta, linear.vocab_size) == (1e6, 9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architecture": "falcon"}, "architecture 'falcon'"),
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"llama.rope.dimension_count": 4}, "rotates 4 of 8 dimensions"),
        ({"llama.block_count": 5000}, "block_count = 5000"),
        ({"llama.attention.head_count": 0}, "head_count = 0"),
        ({"texts": {"llama.rope.scaling.type": "yarn"}}, "type = yarn"),
        ({"tokens": ()}, "does not say llama.vocab_size"),
    ],
)
def test_a_gguf_file_that_the_decoder_does_not_compute_is_refused(options, words, tmp_path):
    with pytest.raises(ModelError, match=words):
        gguf_shape(tmp_path / "m.gguf", **options)
