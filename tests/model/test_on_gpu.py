"""The decoder on a CUDA device with the fused operations; `make test-gpu` runs it."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from repotune.kernels import PLAIN, PLAIN_GPU, fastest_ops
from repotune.machine import deterministic_gpu
from repotune.model import Decoder, generate_batch
from repotune.model.cache import cache_bytes
from repotune.model.generate import ON_GPU, cache_tokens
from repotune.model.weights import tensor_shapes
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, Policy, Row, Shape

pytestmark = pytest.mark.gpu

LORA = LoraSpec(r=8, alpha=16.0, dropout=0.0, target_modules=LINEAR_MODULES)
VOCAB, LAYERS = 1003, 4


def shape(kv_heads=4, window=None):
    return Shape(
        model_type="mistral" if window else "llama", vocab_size=VOCAB, hidden_size=256,
        intermediate_size=704, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=kv_heads, head_dim=64, rms_norm_eps=1e-5, rope_theta=1e6,
        rope_scaling=None, max_position_embeddings=4096, tie_word_embeddings=False,
        qkv_bias=False, o_bias=False, mlp_bias=False, sliding_window=window,
    )  # fmt: skip


class RandomWeights:
    def __init__(self, of):
        self.shape, self.sizes = of, tensor_shapes(of)
        self.order = {name: i for i, name in enumerate(self.sizes)}

    def names(self):
        return self.sizes

    def read(self, name):
        generator = torch.Generator().manual_seed(self.order[name])
        values = torch.randn(self.sizes[name], generator=generator)
        return values * 0.05 if values.dim() == 2 else values * 0.1 + 1.0


@pytest.fixture
def deterministic():
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    with deterministic_gpu(True):
        yield


def decoder(of=None, *, ops=None, dtype=torch.bfloat16, use_4bit=False, lora=LORA):
    device = torch.device("cuda")
    if ops is None:
        ops, note = fastest_ops(device, dtype, deterministic=True)
        assert note is None
    made = Decoder(
        RandomWeights(of or shape()), lora=lora, dtype=dtype, device=device, ops=ops,
        use_4bit=use_4bit,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(9)
    for tensor in made.lora_state().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.03)
    made.refresh()
    return made


def row(tokens=1500, starts=(0, 1, 400, 910), seed=0):
    ids = np.random.default_rng(seed).integers(0, VOCAB, tokens)
    labels = np.append(ids[1:], IGNORE)
    labels[[s - 1 for s in starts if s]] = IGNORE
    return Row(input_ids=ids, labels=labels, starts=np.array(starts))


def saving(*each, offloaded=False):
    each = each * LAYERS if len(each) == 1 else each
    layers = tuple(LayerPolicy(saving=one, offloaded=offloaded) for one in each)
    return Policy(layers=layers, reason="")


EXPANDED = Policy(
    layers=tuple(LayerPolicy(saving="all", expanded=i != 1) for i in range(LAYERS)), reason=""
)


def gradients(model, of, policy, seed=None):
    model.lora_flat().grad.zero_()
    # 1: a smaller scale would cost fp16 bits, a larger one overflow
    loss = model.loss_and_grad(of, scale=1.0, policy=policy, dropout_seed=seed)
    return float(loss), model.lora_flat().grad.clone()


@pytest.mark.parametrize("use_4bit", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_policies_are_bit_identical(use_4bit, kv_heads, deterministic):
    model = decoder(shape(kv_heads), use_4bit=use_4bit)
    packed = row()
    want = gradients(model, packed, saving("all"))
    assert want[1].any()
    for policy in (
        saving("attention"), saving("outputs"), saving("input"),
        saving("input", "outputs", "attention", "all"),
        saving("outputs", offloaded=True), saving("input", offloaded=True), EXPANDED,
        saving("all"),
    ):  # fmt: skip
        for _ in range(5):  # by itself, while it is recorded, and replayed
            got = gradients(model, packed, policy)
            assert got[0] == want[0], policy
            assert torch.equal(got[1], want[1]), policy


def test_a_replayed_pass_is_the_pass_itself_on_other_rows(deterministic):
    model, fresh = decoder(), decoder()
    for seed, starts in enumerate([(0, 5), (0, 700, 701), (0, 9, 800), (0, 64, 65, 66, 1000)]):
        one = row(seed=seed, starts=starts)
        want = gradients(fresh, one, saving("outputs", offloaded=True))  # never recorded
        got = gradients(model, one, saving("all"))
        assert got[0] == want[0]
        assert torch.equal(got[1], want[1])


def test_a_recorded_pass_survives_a_larger_row_in_between(deterministic):
    model, small, large = decoder(), row(tokens=400, starts=(0, 90)), row(tokens=3000)
    want = gradients(model, small, saving("all"))
    for _ in range(3):  # recorded
        gradients(model, small, saving("all"))
    for _ in range(3):
        model.token_losses(large, adapted=True)  # the shared buffers move
        got = gradients(model, small, saving("all"))
        assert got[0] == want[0]
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("use_4bit", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_error_is_at_most_that_of_plain_operations(window, use_4bit, dtype):
    of, one = shape(2, window), row()
    policy = saving("all")
    exact = gradients(decoder(of, ops=PLAIN, dtype=torch.float32, use_4bit=use_4bit), one, policy)
    made = {"dtype": dtype, "use_4bit": use_4bit}
    plain = gradients(decoder(of, ops=PLAIN, **made), one, policy)
    fused = gradients(decoder(of, **made), one, policy)
    fastest, _ = fastest_ops(torch.device("cuda"), dtype)
    cudnn = gradients(decoder(of, ops=fastest, **made), one, policy)

    def error(got):
        return float((got[1] - exact[1]).norm() / exact[1].norm())

    # 1.05: both round to 16 bits at about the same places, and which rounding is luckier varies
    assert error(fused) <= 1.05 * error(plain)
    assert error(cudnn) <= 1.05 * error(plain)
    assert fused[0] == pytest.approx(exact[0], rel=1e-3)


def test_a_document_does_not_see_its_neighbour():
    model = decoder(shape(2))
    one = row(tokens=600, starts=(0, 250))
    changed = one.input_ids.copy()
    changed[:250] = (changed[:250] + 1) % VOCAB
    before = model.logits(one.input_ids, starts=one.starts)
    after = model.logits(changed, starts=one.starts)
    assert torch.equal(before[250:], after[250:])
    assert not torch.equal(before[:250], after[:250])


def test_released_buffers_may_hold_anything(deterministic):
    """Nothing reads what an earlier row left in a buffer."""
    model, one = decoder(use_4bit=True), row()
    for policy in (saving("all"), saving("outputs", offloaded=True)):
        want = gradients(model, one, policy)
        model.release()
        torch.cuda.empty_cache()
        poison = torch.full((2**27,), float("nan"), device="cuda")
        del poison
        got = gradients(model, one, policy)
        assert got[0] == want[0]
        assert torch.equal(got[1], want[1])


def test_plain_operations_go_on_pass_after_pass(deterministic):
    """The path of GPUs without Triton or before Ampere, which is never recorded."""
    model = decoder(ops=PLAIN, use_4bit=True)
    for seed, starts in enumerate([(0, 5), (0, 700), (0, 9, 800), (0,)]):
        one = row(seed=seed, starts=starts)
        want = gradients(decoder(ops=PLAIN, use_4bit=True), one, saving("all"))
        got = gradients(model, one, saving("all"))
        assert got[0] == want[0]
        assert torch.equal(got[1], want[1])


def test_what_gpus_before_ampere_run_equals_the_plain_table():
    """fp16 in 4 bits, with the memory-efficient attention that PyTorch takes there."""
    made, one = {"dtype": torch.float16, "use_4bit": True}, row()
    policy = saving("all")
    exact = gradients(decoder(ops=PLAIN, dtype=torch.float32, use_4bit=True), one, policy)
    plain = gradients(decoder(ops=PLAIN, **made), one, policy)
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        got = gradients(decoder(ops=PLAIN_GPU, **made), one, policy)
        again = gradients(decoder(ops=PLAIN_GPU, **made), one, saving("outputs"))

    def error(found):
        return float((found[1] - exact[1]).norm() / exact[1].norm())

    assert error(got) <= 1.05 * error(plain)
    assert error(again) <= 1.05 * error(plain)
    assert got[0] == pytest.approx(exact[0], rel=1e-3)


def room_for(model, sequences, longest_prompt, new_tokens):
    capacity = cache_tokens(longest_prompt, new_tokens, ON_GPU)
    return sequences * cache_bytes(model.shape, capacity, model.dtype)


@pytest.mark.parametrize("use_4bit", [False, True])
@pytest.mark.parametrize(("kv_heads", "window"), [(2, None), (4, 50)])
def test_each_token_of_a_batch_is_the_most_likely_one_by_teacher_forcing(
    kv_heads, window, use_4bit
):
    model = decoder(shape(kv_heads, window), use_4bit=use_4bit)
    generator = np.random.default_rng(5)
    asked = [generator.integers(0, VOCAB, length) for length in (3, 200, 61, 700, 1, 128)]
    for at_once in (2, 6):
        got = generate_batch(
            model, asked, max_new_tokens=20, stop=lambda one, ids: len(ids) == 5 + 4 * one,
            adapted=True, max_cache_bytes=room_for(model, at_once, 700, 20),
        )  # fmt: skip
        for one, (prompt, ids) in enumerate(zip(asked, got, strict=True)):
            assert len(ids) == min(20, 5 + 4 * one)
            logits = model.logits(np.concatenate([prompt, ids]))[len(prompt) - 1 : -1]
            chosen = logits[torch.arange(len(ids)), ids]
            # nearly equal ones go either way: 8 bits of logits with a spread of about 1
            assert float((logits.amax(-1) - chosen).max()) < 0.05


@pytest.fixture
def replays(monkeypatch):
    """One entry for each CUDA graph that is replayed."""
    seen, replay = [], torch.cuda.CUDAGraph.replay

    def counted(graph):
        seen.append(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    return seen


@pytest.mark.parametrize("use_4bit", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(("kv_heads", "window"), [(2, None), (4, 50)])
@pytest.mark.parametrize(
    ("dtype", "fused"), [(torch.bfloat16, True), (torch.float16, True), (torch.float32, False)],
    ids=str,
)  # fmt: skip
def test_recorded_steps_write_the_same_tokens(
    kv_heads, window, adapted, use_4bit, dtype, fused, replays
):
    ops = None if fused else PLAIN_GPU
    model = decoder(shape(kv_heads, window), use_4bit=use_4bit, dtype=dtype, ops=ops)
    generator = np.random.default_rng(6)
    asked = [generator.integers(0, VOCAB, length) for length in (3, 200, 61, 700, 1, 128, 90, 40)]
    # 3: others begin in between, in longer rows than any before
    for at_once in (1, 3, 8):
        plain, recorded = (
            generate_batch(
                model, asked, max_new_tokens=40, stop=lambda one, ids: len(ids) == 5 + 4 * one,
                adapted=adapted, max_cache_bytes=room_for(model, at_once, 700, 40),
                pace=replace(ON_GPU, recorded=is_recorded),
            )
            for is_recorded in (False, True)
        )  # fmt: skip
        assert recorded == plain
        assert len(replays) > 10
        replays.clear()


def test_offloaded_tails_of_few_numbers_are_not_written_over(deterministic):
    lora = LoraSpec(r=1, alpha=2.0, dropout=0.0, target_modules=LINEAR_MODULES)
    model, one = decoder(lora=lora), row(tokens=300, starts=(0, 100))
    want = gradients(model, one, saving("outputs"))
    got = gradients(model, one, saving("outputs", offloaded=True))
    assert torch.equal(got[1], want[1])


def test_dropout_masks_come_again_from_their_seed(deterministic):
    lora = LoraSpec(r=8, alpha=16.0, dropout=0.2, target_modules=LINEAR_MODULES)
    model = decoder(lora=lora)
    one = row()
    want = gradients(model, one, saving("all"), seed=3)
    assert gradients(model, one, saving("all"), seed=4)[0] != want[0]
    got = gradients(model, one, saving("input"), seed=3)
    assert got[0] == want[0]
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_new_tokens_are_trained_as_exactly(tied, deterministic):
    made = replace(shape(2), tie_word_embeddings=tied)
    lora, one = replace(LORA, trainable_token_indices=(999, 1000, 1001, 1002)), row()
    one.input_ids[[3, 77, 500]] = 1001
    one.labels[[40, 900]] = 1002
    exact = decoder(made, ops=PLAIN, dtype=torch.float32, lora=lora)
    want = rows_of(exact, one)
    plain, fused = rows_of(decoder(made, ops=PLAIN, lora=lora), one), decoder(made, lora=lora)
    assert len(want) == (1 if tied else 2)
    first = rows_of(fused, one)
    for name, expected in want.items():
        ours, theirs = (float((got[name] - expected).norm()) for got in (first, plain))
        assert ours <= 1.05 * theirs  # as for LoRA: both round to 16 bits
    for _ in range(3):  # recorded, and replayed, also after the base was asked
        fused.token_losses(one, adapted=False)
        again = rows_of(fused, one)
        for name, expected in first.items():
            assert float((again[name] - expected).norm()) <= 1e-3 * float(expected.norm())


def rows_of(model, one):
    gradients(model, one, saving("all"))
    state = model.lora_state()
    return {name: state[name].grad.clone() for name in state if "token_adapter" in name}
