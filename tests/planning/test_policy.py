import pytest
import torch

from repotune.errors import DoesNotFit
from repotune.kernels import PLAIN, Buffers
from repotune.model.layer import Layer, RowContext
from repotune.model.linear import StackedLinear
from repotune.planning import choose_policy, resident_bytes, saved_layer_bytes, working_bytes
from repotune.records import LINEAR_MODULES, LoraSpec, Shape

LORA = LoraSpec(r=4, alpha=8.0, dropout=0.0, target_modules=LINEAR_MODULES)
SHAPE = Shape(
    model_type="llama", vocab_size=1000, hidden_size=64, intermediate_size=172,
    num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2, head_dim=8,
    rms_norm_eps=1e-5, rope_theta=1e4, rope_scaling=None, max_position_embeddings=2048,
    tie_word_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
)  # fmt: skip


def policy(free, *, checkpointing=True, tokens=2048):
    return choose_policy(
        SHAPE, LORA, tokens=tokens, itemsize=2, free_bytes=free,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip


def test_saved_bytes_are_those_of_a_real_layer():
    tokens, generator = 33, torch.Generator().manual_seed(0)
    d, q, k, i = 64, 64, 16, 172

    def linear(names, outs, width):
        weights = [torch.randn(out, width) for out in outs]
        return StackedLinear(names, weights, None, lora=LORA, generator=generator)

    layer = Layer(
        SHAPE, ops=PLAIN, attention_norm=torch.ones(d), mlp_norm=torch.ones(d),
        qkv=linear(["q_proj", "k_proj", "v_proj"], [q, k, k], d), o=linear(["o_proj"], [d], q),
        gate_up=linear(["gate_proj", "up_proj"], [i, i], d), down=linear(["down_proj"], [d], i),
    )  # fmt: skip
    row = RowContext(
        cos_T1h=torch.ones(tokens, 1, 4), sin_T1h=torch.zeros(tokens, 1, 4),
        documents=(slice(0, tokens),),
    )  # fmt: skip
    buffers = Buffers(torch.float32, torch.device("cpu"))
    _, saved = layer.forward(torch.randn(tokens, d), row, buffers)
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in (saved.x, saved.qkv_in, saved.q, saved.k, saved.v, saved.attention_out,
                  saved.o_in, saved.middle, saved.gate_up_in, saved.gate_up, saved.down_in)
    }  # fmt: skip
    assert sum(storages.values()) == saved_layer_bytes(SHAPE, LORA, tokens=tokens, itemsize=4)


def room_for(layers, tokens=65536):
    """Free bytes in which so many layers can be kept whole, beside all that is always there."""
    fixed = resident_bytes(SHAPE, LORA, itemsize=2)
    fixed += working_bytes(SHAPE, tokens=tokens, itemsize=2)
    return int((fixed + layers * saved_layer_bytes(SHAPE, LORA, tokens=tokens, itemsize=2)) / 0.85)


def test_all_is_kept_where_there_is_room_and_less_where_there_is_less():
    kept = [policy(room_for(n), tokens=65536).layers.count("keep") for n in (8, 5, 4, 3)]
    assert kept[0] == 6
    assert kept == sorted(set(kept), reverse=True)


def test_the_last_layers_are_kept_first():
    layers = policy(room_for(4), tokens=65536).layers
    assert 0 < layers.count("keep") < 6
    assert list(layers) == sorted(layers, reverse=True)  # recompute ... keep


def test_without_checkpointing_nothing_is_recomputed_or_it_is_refused():
    assert set(policy(2**33, checkpointing=False).layers) == {"keep"}
    with pytest.raises(DoesNotFit, match=r"GiB short.*gradient_checkpointing"):
        policy(2**29, checkpointing=False, tokens=65536)


def test_too_little_for_anything_is_refused_with_the_way_out():
    with pytest.raises(DoesNotFit, match="Lower max_seq_length below 2048"):
        policy(2**26)
