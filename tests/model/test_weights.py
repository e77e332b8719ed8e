"""Weights tensor by tensor: safetensors in one file and in several, and GGUF."""

import json
import struct

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from repotune.errors import ModelError
from repotune.model import open_weights
from repotune.model.weights import permuted as permuted_by_us
from repotune.model.weights import tensor_shapes
from repotune.records import ModelRef


def weights_of(path):
    return open_weights(ModelRef(name="m", revision=None, path=str(path), digest=""))


def reference(**options):
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


FORMS = {
    "one file": {},
    "shards": {"max_shard_size": "10KB"},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "bf16": {"dtype": torch.bfloat16},
}


def saved(form, folder):
    options = dict(FORMS[form])
    shard, dtype = options.pop("max_shard_size", "1GB"), options.pop("dtype", torch.float32)
    model = reference(**options).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (form == "shards")
    return model


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_is_transformers_own(form, tmp_path):
    model = saved(form, tmp_path)
    weights = weights_of(tmp_path)
    expected = dict(model.named_parameters())
    assert set(weights.names()) == set(expected)
    for name, tensor in expected.items():
        got = weights.read(name)
        assert got.dtype == tensor.dtype
        assert torch.equal(got, tensor), name
        assert tensor_shapes(weights.shape)[name] == tuple(tensor.shape)


@pytest.fixture
def folder(tmp_path):
    saved("one file", tmp_path)
    return tmp_path


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_what_is_read_is_a_copy_that_outlives_the_file(folder):
    weights = weights_of(folder)
    first = weights.read("model.norm.weight")
    first.fill_(7.0)
    assert torch.equal(weights.read("model.norm.weight"), torch.ones(32))


def test_stored_frequencies_and_a_stored_tied_head_are_no_mistake(tmp_path):
    saved("tied", tmp_path)

    def change(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    rewrite(tmp_path, change)
    assert "lm_head.weight" not in weights_of(tmp_path).names()


NORM, GATE = "model.layers.1.input_layernorm.weight", "model.layers.0.mlp.gate_proj.weight"
MISMATCHES = {
    "one is missing": (lambda t: t.pop(NORM), f"lacks the tensor {NORM}"),
    "one too many": (lambda t: t.update(extra=torch.ones(1)), "has the tensor extra, which"),
    "another layer": (
        lambda t: t.update({NORM.replace("1", "2"): torch.ones(32)}),
        "has the tensor model.layers.2.*different models",
    ),
    "another shape": (
        lambda t: t.update({GATE: torch.ones(32, 64)}),
        r"as \[32, 64\], and its configuration asks for \[64, 32\]",
    ),
    "another type": (
        lambda t: t.update({GATE: torch.ones(64, 32, dtype=torch.int8)}),
        f"holds {GATE} as I8",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_other_tensors_than_the_configuration_asks_for_are_refused(case, folder):
    change, words = MISMATCHES[case]
    rewrite(folder, change)
    with pytest.raises(ModelError, match=words):
        weights_of(folder)


def test_a_shard_that_is_missing_or_of_another_model_is_refused(tmp_path):
    saved("shards", tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    kept = shards[2].read_bytes()
    shards[2].unlink()
    with pytest.raises(
        ModelError, match=f"lacks {shards[2].name}, one of the {len(shards)} weight files"
    ):
        weights_of(tmp_path)
    shards[2].write_bytes(shards[1].read_bytes())
    with pytest.raises(ModelError, match="lacks the tensor"):
        weights_of(tmp_path)
    shards[2].write_bytes(kept)
    weights_of(tmp_path)


def safetensors_header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def claims(**entry):
    return safetensors_header(
        {NORM: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | entry}
    )


DAMAGED = {
    "empty": b"",
    "text": b"this is no model at all, but a text",
    "a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"abcd" + bytes(16),
    "data that is not there": claims(),
    "offsets beyond the end": claims(data_offsets=[0, 2**60]) + bytes(16),
    "offsets upside down": claims(data_offsets=[16, 0]) + bytes(16),
    "a shape that its bytes do not hold": claims(shape=[2**40]) + bytes(16),
    "a shape beyond 64 bits": claims(shape=[2**62, 2**62]) + bytes(16),
    "an unknown type": claims(dtype="F31") + bytes(16),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_sentence(case, folder):
    (folder / "model.safetensors").write_bytes(DAMAGED[case])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .*: download the model"):
        weights_of(folder)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused_before_anything_is_read(share, folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match="is damaged"):
        weights_of(folder)


def test_a_file_that_is_damaged_after_it_was_opened_is_one_sentence(folder):
    weights = weights_of(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is damaged"):
        weights.read(NORM)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is damaged"):
        weights.read(NORM)


LLAMA_CPP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def permuted(rows, heads):
    """As llama.cpp's convert_hf_to_gguf.py writes q and k (``LlamaModel.permute``)."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def test_rows_are_put_in_llama_cpps_order_as_its_converter_does():
    rows = torch.arange(48 * 5).reshape(48, 5)
    assert torch.equal(permuted_by_us(rows, 4), torch.as_tensor(permuted(rows, 4)))
    assert torch.equal(permuted_by_us(rows[:, 0], 2), rows[:, 0].reshape(2, 2, 12).mT.flatten())


def write_gguf(path, model, *, quantisation="F32", drop=()):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_token_merges(["t 1"])
    kind = gguf.GGMLQuantizationType[quantisation]
    for name, parameter in model.named_parameters():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            index, part = stem.removeprefix("model.layers.").split(".", 1)
            target = f"blk.{index}.{LLAMA_CPP[part]}.weight"
        else:
            target = f"{LLAMA_CPP[stem]}.weight"
        values = parameter.detach().numpy()
        if "q_proj" in name:
            values = permuted(values, config.num_attention_heads)
        if "k_proj" in name:
            values = permuted(values, config.num_key_value_heads)
        if target in drop:
            continue
        if values.ndim == 1:
            writer.add_tensor(target, values)
        else:
            writer.add_tensor(target, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_gives_back_what_was_written(tied, tmp_path):
    model = reference(tie_word_embeddings=tied)
    weights = weights_of(write_gguf(tmp_path / "model.gguf", model))
    expected = dict(model.named_parameters())
    assert set(weights.names()) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(weights.read(name), tensor), name


@pytest.mark.parametrize("quantisation", ["F16", "Q8_0", "Q4_1"])
def test_quantised_tensors_are_those_that_transformers_reads(quantisation, tmp_path):
    write_gguf(tmp_path / "model.gguf", reference(), quantisation=quantisation)
    weights = weights_of(tmp_path / "model.gguf")
    model = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    for name, tensor in model.named_parameters():
        got = weights.read(name)
        assert got.dtype == torch.float32
        np.testing.assert_array_equal(got.numpy(), tensor.detach().numpy(), err_msg=name)


def test_gguf_tensors_are_compared_with_the_header(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, reference(), drop=["blk.1.ffn_up.weight"])
    with pytest.raises(ModelError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj\.weig"):
        weights_of(path)
    whole = write_gguf(path, reference()).read_bytes()
    path.write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.7.ffn_up.weight"))
    with pytest.raises(ModelError, match=r"lacks the tensor"):
        weights_of(path)
    path.write_bytes(whole[:-8])
    with pytest.raises(ModelError, match="would end at byte"):
        weights_of(path)
