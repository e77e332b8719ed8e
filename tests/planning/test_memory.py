"""The memory model against peaks measured on one H100 and against its own logic."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from repotune.model import Decoder
from repotune.planning import memory
from repotune.planning.memory import memory_parts, shared_bytes, slack_bytes
from repotune.planning.policy import LEVELS
from repotune.planning.setup import linear_parameters, lora_parameters, stacks
from repotune.training.optimizer import AdamW

from .setups import LORA, SHAPE, RandomWeights, policy, setup

GIB = 2**30
ALLOCATED = [
    (4, 2048, "outputs", 11.621),
    (4, 2048, "attention", 17.626),
    (4, 2048, "all", 28.282),
    (1, 2048, "all", 10.432),
    (1, 1024, "all", 7.479),
]
"""GiB, torch.cuda.max_memory_allocated of the engine at the CodeLlama-7B shape, 2026-11-26."""
RESERVED = [(4, 2048, "outputs", 11.70), (4, 2048, "attention", 17.70), (4, 2048, "all", 28.40)]


def peak(one, levels):
    return sum(part.bytes for part in memory_parts(one, levels))


@pytest.mark.parametrize(("batch", "length", "saving", "measured"), ALLOCATED)
def test_allocated_is_what_was_measured(batch, length, saving, measured):
    one = setup(batch * length)
    ours = (peak(one, policy(saving)) - slack_bytes(one)) / GIB
    assert ours == pytest.approx(measured, rel=0.001)


@pytest.mark.parametrize(("batch", "length", "saving", "measured"), RESERVED)
def test_reserved_is_what_was_measured(batch, length, saving, measured):
    assert peak(setup(batch * length), policy(saving)) / GIB == pytest.approx(measured, rel=0.01)


def test_documents_of_several_lengths_and_grouped_queries_take_flash_attention():
    plain, packed = setup(8192), replace(setup(8192), documents=15)
    extra = memory.attention_bytes(packed) - memory.attention_bytes(plain)
    assert extra == 8192 * 2 * 2 * 4096 + 15 * 128 * 4 * 4096
    # 28.447 GiB were allocated at 4 x 2048 with documents of 700 tokens, 28.282 with whole rows.
    assert extra / GIB == pytest.approx(28.447 - 28.282, abs=0.015)
    grouped = setup(8192, shape=replace(SHAPE, num_key_value_heads=8))
    assert memory.uses_flash(grouped)
    assert not memory.uses_flash(plain)


def test_deterministic_attention_is_flash_attention_whose_sums_are_in_parts():
    whole = replace(setup(8192), longest=2048)
    exact = replace(whole, deterministic=True)
    assert memory.uses_flash(exact)
    # Four documents of 32 heads: two parts keep up to 192 multiprocessors busy, each with its dq.
    parts = 2 * (8192 + 4 * 128) * 4 * 4096
    copies = 8192 * 2 * 2 * 4096
    extra = memory.attention_bytes(exact) - memory.attention_bytes(whole)
    assert extra == copies + parts - 8192 * 4 * 4096
    one_row = replace(setup(2048), longest=2048, deterministic=True)
    extra = memory.attention_bytes(one_row) - memory.attention_bytes(setup(2048))
    assert extra == 2048 * 2 * 2 * 4096 + (6 * (2048 + 128) - 2048) * 4 * 4096
    # Bounds of 15 documents are padded to 16, and then one part is enough, as for 64 documents.
    packed = replace(setup(65_536), longest=65_536, documents=15, deterministic=True)
    usual = replace(packed, deterministic=False)
    many = memory.attention_bytes(replace(packed, documents=63, longest=1024))
    assert many == memory.attention_bytes(replace(usual, documents=64, longest=1024))
    assert memory.attention_bytes(packed) > memory.attention_bytes(usual)


def test_moments_on_the_host_leave_the_device():
    one, here = setup(2048), policy("input", offloaded=32)
    away = replace(here, optimizer_offloaded=True)
    moments = 8 * lora_parameters(SHAPE, LORA)
    assert peak(one, here) - peak(one, away) == moments
    assert memory.offloaded_bytes(one, away) - memory.offloaded_bytes(one, here) == moments
    assert memory.moments_bytes(setup(2048, device="cpu")) == 0


def test_few_ranks_are_padded_to_what_matmuls_read_well():
    assert [ranks for *_, ranks in stacks(SHAPE, replace(LORA, r=4))] == [16, 8, 8, 8]
    assert [ranks for *_, ranks in stacks(SHAPE, LORA)] == [48, 16, 32, 16]


def test_the_parts_are_all_that_the_choice_of_policy_counts():
    for saving in LEVELS:
        one = setup(2048)
        whole = shared_bytes(one, frozenset({saving})) + memory.saved_bytes(one, policy(saving))
        assert peak(one, policy(saving)) == whole


def test_more_tokens_take_more_memory_and_saving_more_does_too():
    sizes = [[peak(setup(tokens), policy(one)) for one in LEVELS] for tokens in (512, 1024, 8192)]
    for fewer, more in pairwise(sizes):
        assert all(a < b for a, b in zip(fewer, more, strict=True))
    # Saving a level more costs its tensors, less what scratch no longer recomputes into.
    assert all(row == sorted(row) for row in sizes)


def test_what_is_offloaded_leaves_the_device_but_for_two_layers_of_buffers():
    one = setup(8192)
    here, away = policy("outputs"), policy("outputs", offloaded=32)
    layer = memory.saved_bytes(one, here) // 32
    assert peak(one, here) - peak(one, away) == (32 - 2) * layer
    assert memory.offloaded_bytes(one, away) == memory.saved_bytes(one, here)
    assert memory.saved_bytes(one, away) == 0


def test_the_weights_take_what_their_format_takes():
    parameters = linear_parameters(SHAPE)
    assert parameters == 6_476_005_376
    assert memory.weight_bytes(setup(1)) / parameters == pytest.approx(0.5159, abs=1e-4)
    # Dense stacks are padded for the ranks: a little over 2 %.
    dense = memory.weight_bytes(setup(1, use_4bit=False))
    assert 2 * parameters < dense < 2.05 * parameters
    assert memory.weight_bytes(setup(1, use_4bit=False, itemsize=4)) == 2 * dense
    on_cpu = setup(1, use_4bit=False, device="cpu", itemsize=4)
    assert memory.weight_bytes(on_cpu) == 2 * dense  # padded there as well


@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_decoder_on_a_cpu_holds_what_is_resident(itemsize):
    narrow = replace(
        SHAPE, hidden_size=144, intermediate_size=400, num_attention_heads=9, head_dim=16,
        num_key_value_heads=3, num_hidden_layers=2, vocab_size=1000,
    )  # fmt: skip
    dtype = {2: torch.bfloat16, 4: torch.float32}[itemsize]
    decoder = Decoder(RandomWeights(narrow), lora=LORA, dtype=dtype)
    optimizer = AdamW(decoder.lora_flat(), decoder.lora_state(), weight_decay=0.0)
    moments = [*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()]
    held = [decoder.lora_flat(), decoder.lora_flat().grad, *moments]
    held += [decoder.parts.embedding_VD, decoder.parts.head_VD]
    held += [linear._weight.padded() for layer in decoder.layers for linear in layer.linears]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}
    one = setup(0, shape=narrow, itemsize=itemsize, device="cpu", use_4bit=False)
    assert memory.resident_bytes(one) == sum(storages.values())


def test_tied_embeddings_and_unused_adapters_are_not_counted():
    tied = replace(SHAPE, tie_word_embeddings=True)
    whole = memory.embedding_bytes(setup(1))
    assert memory.embedding_bytes(setup(1, shape=tied)) * 2 == whole
    q_only = replace(LORA, target_modules=("q_proj",))
    assert lora_parameters(SHAPE, q_only) == 32 * 16 * (4096 + 4096)
    assert memory.adapter_bytes(setup(1, lora=q_only)) < memory.adapter_bytes(setup(1)) / 4


def test_dropout_takes_its_masks():
    dropped = setup(1024, lora=replace(LORA, dropout=0.1))
    extra = memory.scratch_bytes(dropped, frozenset({"all"}))
    extra -= memory.scratch_bytes(setup(1024), frozenset({"all"}))
    assert extra == 1024 * 2 * 2 * SHAPE.intermediate_size
