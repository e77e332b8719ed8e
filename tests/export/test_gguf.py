"""The GGUF file in llama.cpp's hands, and its types beside those of llama.cpp's own quantiser."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from repotune.errors import ExportError
from repotune.export import (
    MergedWeights,
    ask_llama_cpp,
    model_bytes,
    passage_ids,
    read_by_us,
    refuse_drift,
    write_model,
)
from repotune.export.gguf import tensor_plans
from repotune.gguf_file import open_gguf
from repotune.llama_cpp import quantise_rows
from repotune.model import Decoder, open_weights, read_shape
from repotune.records import ModelRef
from repotune.tables import known_model
from repotune.tokens import gguf_metadata, load_tokenizer

from .tiny import FAMILIES, SPEC, adapted, relative
from .tiny import write_model as write_base


def write(base, decoder, path, quantisation):
    merged = MergedWeights(open_weights(base), decoder.lora_state(), lora=decoder.lora)
    told = []
    write_model(
        path, merged, metadata(base, merged), name="tiny", licence="mit",
        quantisation=quantisation, wrote=told.append,
    )  # fmt: skip
    return merged, told


def metadata(base, merged):
    return gguf_metadata(path_of(base), merged.shape.vocab_size)


def path_of(base):
    return Path(base.path)


def proof(base, decoder, path, quantisation, scratch):
    tokenizer = load_tokenizer(path_of(base))
    passages = read_by_us(decoder, passage_ids(tokenizer))
    said = gguf_metadata(path_of(base), decoder.shape.vocab_size)
    return ask_llama_cpp(
        path, passages, tokenizer, said, quantisation=quantisation, dtype=torch.float32,
        scratch=scratch,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_our_decoder_computes(family, tmp_path):
    base = write_base(tmp_path / "base", family)
    decoder = adapted(base)
    write(base, decoder, tmp_path / "model.gguf", "f16")
    found = proof(base, decoder, tmp_path / "model.gguf", "f16", tmp_path)
    # llama.cpp multiplies in 16 bits: 2**-11 of each product, a few of them in a row.
    assert found.drift < 0.01
    assert found.same_token > 0.95
    assert found.positions > 60
    assert found.their_nats == pytest.approx(found.nats, rel=2e-3)
    refuse_drift(found)


@pytest.mark.parametrize("family", ["llama (GQA)", "llama (tied, bias)"])
def test_our_own_reader_gives_the_same_logits(family, tmp_path):
    base = write_base(tmp_path / "base", family)
    decoder = adapted(base)
    _, told = write(base, decoder, tmp_path / "model.gguf", "f16")
    assert sum(told) == model_bytes(decoder.shape, "f16")
    ref = ModelRef(name="", revision=None, path=str(tmp_path / "model.gguf"), digest="")
    again = Decoder(open_weights(ref), lora=SPEC, dtype=torch.float32)
    before = load_tokenizer(path_of(base))
    assert load_tokenizer(tmp_path / "model.gguf").stop_ids == before.stop_ids
    assert load_tokenizer(tmp_path / "model.gguf").fim == before.fim
    for ids in passage_ids(before):
        # fp16 rounds a weight by 2**-12 on average.
        assert relative(again.logits(ids, adapted=False), decoder.logits(ids)) < 2e-3


@pytest.mark.parametrize("quantisation", ["q8_0", "q4_k_m"])
def test_fewer_bits_stay_within_their_bound(quantisation, tmp_path):
    base = write_base(
        tmp_path / "base", layers=4, hidden_size=256, intermediate_size=512,
        num_attention_heads=4, num_key_value_heads=2, wide=0.035,
    )  # fmt: skip
    decoder = adapted(base, wide=0.02)
    write(base, decoder, tmp_path / "model.gguf", quantisation)
    found = proof(base, decoder, tmp_path / "model.gguf", quantisation, tmp_path)
    refuse_drift(found)
    assert found.drift > 0.01  # the bits are fewer than 16


SIZES = {
    "whole superblocks": {"hidden_size": 256, "intermediate_size": 512},
    "no superblocks in the hidden size": {"hidden_size": 64, "intermediate_size": 256},
    "no superblocks at all": {"hidden_size": 96, "intermediate_size": 160},
    "no blocks in the MLP": {"hidden_size": 64, "intermediate_size": 72},
}


MORE_BITS = {0, 3, 6, 9, 10}
"""Of 11 layers: the first and last eighth, and every third between."""
IN_Q4_K_M = {
    "whole superblocks": ("Q4_K", "Q6_K", "Q4_K", "Q6_K", "Q6_K"),
    "no superblocks in the hidden size": ("Q5_0", "Q8_0", "Q4_K", "Q6_K", "Q8_0"),
    "no superblocks at all": ("Q5_0", "Q8_0", "Q5_0", "Q8_0", "Q8_0"),
    "no blocks in the MLP": ("Q5_0", "Q8_0", "F16", "F16", "Q8_0"),
}
"""What llama.cpp's own ``llama_model_quantize`` (of May 2026) gave for these sizes: most matrices,
values in layers with more bits, down elsewhere, down in layers with more bits, the head."""


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("family", ["llama (GQA)", "qwen2 (tied)"])
def test_the_types_of_q4_k_m_are_those_of_llama_cpps_quantiser(family, case, tmp_path):
    base = write_base(tmp_path / "base", family, layers=11, **SIZES[case])
    most, value, down, more_down, head = IN_Q4_K_M[case]
    shape = read_shape(base)
    for name, plan in tensor_plans(shape, "q4_k_m").items():
        _, _, part = name.partition("blk.")
        number, _, part = part.partition(".")
        more = number.isdigit() and int(number) in MORE_BITS
        if len(plan.shape) == 1:
            expected = "F32"
        elif name == "output.weight" or (shape.tie_word_embeddings and name == "token_embd.weight"):
            expected = head
        elif part == "ffn_down.weight":
            expected = more_down if more else down
        else:
            expected = value if part == "attn_v.weight" and more else most
        assert plan.quantisation == expected, name


def test_few_bits_are_what_llama_cpp_itself_reads_back(tmp_path):
    """The library's dequantisation is independent of the function that quantised."""
    values = np.random.default_rng(0).normal(size=(300, 512)).astype(np.float32)
    for kind, error in {"Q4_K": 0.08, "Q6_K": 0.02, "Q5_0": 0.05, "Q5_1": 0.05}.items():
        stored = quantise_rows(values, kind)
        back = dequantize(stored, GGMLQuantizationType[kind])
        assert np.linalg.norm(back - values) / np.linalg.norm(values) < error


def test_the_mix_of_real_models_is_what_is_published():
    """The types in the widely used Q4_K_M files of these models, counted from their headers."""
    shape = known_model("codellama/CodeLlama-7b-hf").shape
    plans = tensor_plans(shape, "q4_k_m")
    counts = {}
    for plan in plans.values():
        counts[plan.quantisation] = counts.get(plan.quantisation, 0) + 1
    # llama.cpp prints "type f32: 65, q4_K: 193, q6_K: 33" for a Llama 2 of 7B in Q4_K_M.
    assert counts == {"F32": 65, "Q4_K": 193, "Q6_K": 33}
    assert sum(plan.bytes for plan in plans.values()) == pytest.approx(4.08e9, rel=0.01)


def test_a_weight_that_has_no_room_is_refused(tmp_path):
    base = write_base(tmp_path / "base")
    decoder = adapted(base)
    decoder.lora_state()["model.layers.0.mlp.down_proj.lora_B.weight"].fill_(1e6)
    with pytest.raises(ExportError, match=r"layers\.0\.mlp\.down_proj.*learning_rate"):
        write(base, decoder, tmp_path / "model.gguf", "f16")


def test_what_the_header_says_is_what_the_model_is(tmp_path):
    base = write_base(tmp_path / "base", "mistral", sliding_window=128)
    decoder = adapted(base)
    write(base, decoder, tmp_path / "model.gguf", "f16")
    said = open_gguf(tmp_path / "model.gguf").metadata
    assert said["general.architecture"] == "llama"
    assert said["general.license"] == "mit"
    assert said["llama.context_length"] == 128  # llama.cpp knows no window
    ref = ModelRef(name="", revision=None, path=str(tmp_path / "model.gguf"), digest="")
    shape, before = read_shape(ref), read_shape(base)
    for key in ("hidden_size", "head_dim", "num_key_value_heads", "vocab_size", "rope_theta"):
        assert getattr(shape, key) == getattr(before, key)
