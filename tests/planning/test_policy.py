import random
import re
from dataclasses import fields, is_dataclass, replace
from functools import partial
from math import ceil

import pytest
import torch

from repotune.errors import DoesNotFit
from repotune.kernels import PLAIN, Buffers, Documents
from repotune.model.frozen import DenseWeight
from repotune.model.layer import Layer, RowContext
from repotune.model.linear import StackedLinear, lora_size, parts_of, ranks_of
from repotune.planning import Setup, choose_policy, saved_layer_bytes
from repotune.planning.memory import (
    expanded_layer_bytes,
    memory_parts,
    moments_bytes,
    resident_bytes,
    working_bytes,
)
from repotune.planning.policy import LEVELS, USABLE, needed_bytes
from repotune.records import LINEAR_MODULES, LoraSpec, Shape

LORA = LoraSpec(r=4, alpha=8.0, dropout=0.0, target_modules=LINEAR_MODULES)
SHAPE = Shape(
    model_type="llama", vocab_size=1000, hidden_size=64, intermediate_size=172,
    num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2, head_dim=8,
    rms_norm_eps=1e-5, rope_theta=1e4, rope_scaling=None, max_position_embeddings=2048,
    tie_word_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
)  # fmt: skip


ON_GPU = Setup(
    shape=SHAPE, lora=LORA, tokens=2048, itemsize=2, device="cuda", use_4bit=True, documents=3
)


def policy(free, *, checkpointing=True, tokens=2048):
    one = Setup(shape=SHAPE, lora=LORA, tokens=tokens, itemsize=2)
    return choose_policy(one, free_bytes=free, gradient_checkpointing=checkpointing)


@pytest.mark.parametrize("saving", LEVELS)
def test_saved_bytes_are_those_of_a_real_layer(saving):
    tokens, generator = 33, torch.Generator().manual_seed(0)
    d, q, k, i = 64, 64, 16, 172

    def linear(names, outs, width):
        parts = parts_of(names, outs, LORA)
        weight = DenseWeight(
            (torch.randn(out, width) for out in outs), rows=sum(outs), width=width,
            ranks=ranks_of(parts), dtype=torch.float32, device=torch.device("cpu"),
        )  # fmt: skip
        masters = torch.zeros(lora_size(parts, width))
        return StackedLinear(
            parts, weight, None, lora=LORA, masters=masters, gradients=masters.clone(),
            generator=generator, ops=PLAIN,
        )  # fmt: skip

    layer = Layer(
        SHAPE, ops=PLAIN, attention_norm=torch.ones(d), mlp_norm=torch.ones(d),
        qkv=linear(["q_proj", "k_proj", "v_proj"], [q, k, k], d), o=linear(["o_proj"], [d], q),
        gate_up=linear(["gate_proj", "up_proj"], [i, i], d), down=linear(["down_proj"], [d], i),
    )  # fmt: skip
    row = RowContext(
        cos_T1h=torch.ones(tokens, 1, 4), sin_T1h=torch.zeros(tokens, 1, 4),
        documents=Documents(
            slices=(slice(0, tokens),), bounds=torch.tensor([0, tokens]), longest=tokens,
            window=None,
        ),
    )  # fmt: skip
    kept, scratch = (Buffers(torch.float32, torch.device("cpu")) for _ in range(2))
    x = torch.randn(tokens, d)
    saved, _ = layer.forward(x, row, saving=saving, kept=kept, scratch=scratch, out=x.clone())
    assert sum(t.nbytes for t in tensors_in(saved)) == saved_layer_bytes(
        SHAPE, LORA, saving, tokens=tokens, itemsize=4
    )


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from tensors_in(one)
    elif is_dataclass(value):
        yield from tensors_in(tuple(getattr(value, field.name) for field in fields(value)))


def counted(free, **options):
    layers = policy(free, tokens=65536, **options).layers
    return [sum(layer.saving == level for layer in layers) for level in LEVELS]


def room_for(level, count):
    """Free bytes in which ``count`` layers save ``level``, the others one level less."""
    sizes = [
        saved_layer_bytes(SHAPE, LORA, one, tokens=65536, itemsize=2)
        for one in (LEVELS[LEVELS.index(level) - 1], level, "all")
    ]
    fixed = resident_bytes(Setup(shape=SHAPE, lora=LORA, tokens=0, itemsize=2))
    fixed += working_bytes(SHAPE, tokens=65536, itemsize=2)
    return int((fixed + (6 - count) * sizes[0] + count * sizes[1] + sizes[2]) / 0.85) + 10


def test_as_little_is_recomputed_as_the_room_allows():
    assert counted(room_for("outputs", 0)) == [6, 0, 0, 0]
    assert counted(room_for("outputs", 2)) == [4, 2, 0, 0]
    assert counted(room_for("attention", 5)) == [0, 1, 5, 0]
    assert counted(room_for("all", 3)) == [0, 0, 3, 3]
    assert counted(room_for("all", 6)) == [0, 0, 0, 6]


def test_the_last_layers_save_most():
    layers = policy(room_for("all", 2), tokens=65536).layers
    assert [layer.saving for layer in layers] == ["attention"] * 4 + ["all"] * 2


def test_without_checkpointing_nothing_is_recomputed_or_it_is_refused():
    assert counted(2**34, checkpointing=False) == [0, 0, 0, 6]
    with pytest.raises(DoesNotFit, match=r"GiB short.*gradient_checkpointing"):
        policy(2**29, checkpointing=False, tokens=65536)


def test_too_little_is_refused_with_the_largest_pass_that_fits():
    least = needed_bytes(Setup(shape=SHAPE, lora=LORA, tokens=512, itemsize=2)) / USABLE["cpu"]
    with pytest.raises(DoesNotFit, match=r"short\. Lower max_seq_length from 2,048 to 512, or"):
        policy(ceil(least) + 1)
    with pytest.raises(DoesNotFit, match=r"short\. Lower max_seq_length from 2,048 to 256, or"):
        policy(ceil(least) - 1)


def test_too_little_for_anything_is_refused_with_the_least_that_would_do():
    with pytest.raises(DoesNotFit) as refused:
        policy(2**26)
    words = re.search(
        r"Even 256 tokens at a time need ([\d.]+) GiB: use a computer with at least ([\d.]+) GiB "
        "free, or choose a smaller model, or close other programs",
        str(refused.value),
    )
    least, free = (float(one) for one in words.groups())
    assert free == pytest.approx(least / USABLE["cpu"], abs=0.11)
    policy(int((free + 0.05) * 2**30), tokens=256)


def test_on_a_gpu_the_smallest_that_would_do_has_weights_in_4_bits():
    large = replace(SHAPE, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24)
    dense = replace(ON_GPU, shape=large, use_4bit=False)

    def refusal(free):
        with pytest.raises(DoesNotFit) as refused:
            choose_policy(dense, free_bytes=int(free), gradient_checkpointing=True)
        return str(refused.value)

    free = needed_bytes(replace(dense, use_4bit=True)) / USABLE["cuda"]
    assert "short. Set use_4bit=True, or choose" in refusal(free + 1)
    fewer = replace(dense, use_4bit=True, tokens=1024, documents=2)
    free = needed_bytes(fewer) / USABLE["cuda"]
    both = "Set use_4bit=True and lower batch_size × max_seq_length from 2,048 to 1,024, or"
    assert both in refusal(free + 1)
    assert re.search(r"Even 256 tokens .* use a GPU with at least [\d.]+ GiB free", refusal(2**27))


def test_what_is_left_of_a_gpu_holds_4_bit_weights_in_16_bits():
    whole = choose_policy(ON_GPU, free_bytes=2**40, gradient_checkpointing=True)
    assert [one.expanded for one in whole.layers] == [True] * 6
    assert whole.reason.endswith("the weights are kept in 16 bits too.")
    plain = replace(whole, layers=tuple(replace(one, expanded=False) for one in whole.layers))
    least = sum(part.bytes for part in memory_parts(ON_GPU, plain))
    each = expanded_layer_bytes(ON_GPU)
    # qkv, o, gate and up, down, padded to multiples of 64
    assert each == 2 * (128 * 128 + 128 * 128 + 384 * 128 + 128 * 192)
    for count in (0, 2):
        free = ceil((least + count * each) / USABLE["cuda"]) + 1
        policy = choose_policy(ON_GPU, free_bytes=free, gradient_checkpointing=True)
        assert [one.expanded for one in policy.layers] == [True] * count + [False] * (6 - count)
        parts = memory_parts(ON_GPU, policy)
        assert sum(part.bytes for part in parts) == least + count * each
    dense = choose_policy(
        replace(ON_GPU, use_4bit=False), free_bytes=2**40, gradient_checkpointing=True
    )
    assert not any(one.expanded for one in dense.layers)


def test_on_cuda_host_memory_is_used_before_attention_is_computed_again():
    def chosen(free, host):
        return choose_policy(
            replace(ON_GPU, tokens=65536), free_bytes=free, gradient_checkpointing=True,
            host_free_bytes=host,
        ).layers  # fmt: skip

    sizes = [
        saved_layer_bytes(SHAPE, LORA, one, tokens=65536, itemsize=2, is_fused=True)
        for one in ("input", "outputs")
    ]
    least = next(free for free in range(2**28, 2**34, 2**22) if fits(chosen, free, 0))
    free = least + sizes[1]
    assert {one.saving for one in chosen(free, 0)} <= {"input", "outputs"}
    assert not any(one.offloaded for one in chosen(free, 0))
    helped = chosen(least, 2**34)
    assert any(one.offloaded for one in helped)
    # The backward needs the last layers first.
    assert [one.offloaded for one in helped] == sorted(one.offloaded for one in helped)[::-1]


def test_the_moments_go_to_the_host_only_where_nothing_else_fits():
    def chosen(free):
        return choose_policy(
            ON_GPU, free_bytes=free, gradient_checkpointing=True, host_free_bytes=2**34
        )

    moments = moments_bytes(ON_GPU)
    least = ceil(needed_bytes(ON_GPU, host_free_bytes=2**34) / USABLE["cuda"]) + 1
    step = moments // 8
    found = [chosen(least + i * step) for i in range(16)]
    moved = [one.optimizer_offloaded for one in found]
    assert moved == sorted(moved, reverse=True)
    assert sum(moved) * step * USABLE["cuda"] == pytest.approx(moments, abs=2 * step)
    assert "moments wait in host memory" in found[0].reason
    with pytest.raises(DoesNotFit):
        chosen(least - step)


@pytest.mark.parametrize("short", [False, True])
def test_what_is_needed_at_the_least_is_what_the_choice_needs(short):
    large = replace(SHAPE, hidden_size=1024, intermediate_size=2816, num_hidden_layers=24)
    draw = random.Random(0)
    for _ in range(200):
        tokens = draw.choice((256, 1024, 8192))
        one = replace(
            ON_GPU, shape=draw.choice((SHAPE, large)), lora=replace(LORA, r=draw.choice((4, 256))),
            tokens=tokens, documents=draw.choice((None, tokens // 700 + 2)),
            use_4bit=draw.choice((False, True)),
        )  # fmt: skip
        host = int(draw.random() * draw.choice((2**24, 2**28, 2**32)))
        need = needed_bytes(one, host_free_bytes=host)
        free = int((need - short) / USABLE["cuda"]) + (not short)
        chosen = partial(
            choose_policy, one, gradient_checkpointing=True, host_free_bytes=host, free_bytes=free
        )
        if short:
            with pytest.raises(DoesNotFit):
                chosen()
        else:
            chosen()


def fits(chosen, free, host):
    try:
        return bool(chosen(free, host))
    except DoesNotFit:
        return False
