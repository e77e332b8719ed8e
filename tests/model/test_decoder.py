"""Our decoder against transformers and peft: logits and LoRA gradients, family by family."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from repotune.kernels import PLAIN, PLAIN_GPU
from repotune.kernels.nf4 import dequantise, quantise
from repotune.model import Decoder, open_weights, resolve_model
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, Policy, Row

VOCAB, TOKENS = 301, 151
TOLERANCE = 1e-5  # relative L2 in fp32: the bound the project promises
SMALL = {"vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3}
GQA = {"num_attention_heads": 6, "num_key_value_heads": 2}
FAMILIES = {
    "llama-2 (MHA)": ("Llama", {"num_attention_heads": 4}),
    "smollm2 (GQA, tied)": ("Llama", {**GQA, "tie_word_embeddings": True, "rope_theta": 1e5}),
    "codellama (theta 1e6)": ("Llama", {"num_attention_heads": 4, "rope_theta": 1e6}),
    "llama-3.1 (scaled rope)": (
        "Llama",
        {
            **GQA,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        },
    ),
    "deepseek-coder (linear rope)": (
        "Llama",
        {
            "num_attention_heads": 4,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5},
        },
    ),
    "biased llama": ("Llama", {**GQA, "attention_bias": True, "mlp_bias": True}),
    "wide heads": ("Llama", {**GQA, "head_dim": 16}),
    "mistral (window)": ("Mistral", {**GQA, "sliding_window": 40}),
    "mistral (no window)": ("Mistral", {**GQA, "sliding_window": None}),
    "qwen2.5-coder (qkv bias, tied)": ("Qwen2", {**GQA, "tie_word_embeddings": True}),
}  # fmt: skip
SPEC = LoraSpec(r=4, alpha=8.0, dropout=0.0, target_modules=LINEAR_MODULES)


def reference_model(family):
    kind, options = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(**SMALL, **options)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    model.set_attn_implementation("eager")
    for parameter in model.parameters():
        parameter.data.uniform_(-0.3, 0.3).add_(1.0 if parameter.dim() == 1 else 0.0)
    return model


def load(folder: Path, *, lora=SPEC, dtype=torch.float32):
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)
    return Decoder(open_weights(ref), lora=lora, dtype=dtype)


def adapted_pair(family, folder, lora=SPEC):
    """The reference with a random PEFT adapter, and ours with the same numbers."""
    model = reference_model(family)
    model.save_pretrained(folder)
    ours = load(folder, lora=lora)
    peft_model = get_peft_model(
        model,
        LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=list(lora.target_modules)),
    )
    parameters = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter
        for name, parameter in peft_model.named_parameters()
        if parameter.requires_grad
    }
    state = ours.lora_state()
    assert set(state) == set(parameters)
    for name, parameter in parameters.items():
        parameter.data.normal_(0, 0.1)
        state[name].copy_(parameter.data)
    ours.refresh()
    return peft_model, parameters, ours


def random_row(tokens=TOKENS, starts=(0,), seed=3):
    ids = np.random.default_rng(seed).integers(0, VOCAB, tokens)
    labels = np.append(ids[1:], IGNORE)
    labels[[s - 1 for s in starts if s]] = IGNORE
    return Row(input_ids=ids, labels=labels, starts=np.array(starts))


def keep(decoder):
    return saving(*["all"] * len(decoder.layers))


def saving(*layers):
    return Policy(layers=tuple(LayerPolicy(saving=one) for one in layers), reason="")


def gradients(decoder, row, *, policy=None, seed=None, scale=1.0):
    decoder.lora_flat().grad.zero_()
    loss = decoder.loss_and_grad(
        row, scale=scale, policy=policy or keep(decoder), dropout_seed=seed
    )
    return float(loss), {name: t.grad.clone() for name, t in decoder.lora_state().items()}


def relative(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_lora_gradients_equal_transformers_and_peft(family, tmp_path):
    peft_model, parameters, ours = adapted_pair(family, tmp_path)
    row = random_row()
    reference = peft_model(input_ids=torch.tensor(row.input_ids)[None]).logits[0]
    assert relative(ours.logits(row.input_ids), reference.detach()) < TOLERANCE

    labels = torch.tensor(row.labels)
    loss = functional.cross_entropy(reference, labels, reduction="sum", ignore_index=IGNORE)
    loss.backward()
    our_loss, ours_by_name = gradients(ours, row)
    assert our_loss == pytest.approx(float(loss.detach()), rel=TOLERANCE)
    for name, parameter in parameters.items():
        assert relative(ours_by_name[name], parameter.grad) < TOLERANCE, name

    with peft_model.disable_adapter(), torch.no_grad():
        base = peft_model(input_ids=torch.tensor(row.input_ids)[None]).logits[0]
    assert relative(ours.logits(row.input_ids, adapted=False), base) < TOLERANCE


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("up_proj",), ("o_proj", "down_proj")])
def test_only_the_targeted_linears_are_adapted(targets, tmp_path):
    lora = LoraSpec(r=3, alpha=6.0, dropout=0.0, target_modules=targets)
    peft_model, parameters, ours = adapted_pair("smollm2 (GQA, tied)", tmp_path, lora)
    row = random_row()
    reference = peft_model(input_ids=torch.tensor(row.input_ids)[None]).logits[0]
    loss = functional.cross_entropy(reference[:-1], torch.tensor(row.labels[:-1]), reduction="sum")
    loss.backward()
    _, ours_by_name = gradients(ours, row)
    for name, parameter in parameters.items():
        assert relative(ours_by_name[name], parameter.grad) < TOLERANCE, name


def rounded_pair(family, folder, ops):
    """peft's model in fp16, and ours, with the same numbers, all of which fp16 has."""
    peft_model, parameters, _ = adapted_pair(family, folder)
    peft_model = peft_model.half()
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)
    ours = Decoder(open_weights(ref), lora=SPEC, dtype=torch.float16, ops=ops)
    for name, parameter in parameters.items():
        ours.lora_state()[name].copy_(parameter.data)
    ours.refresh()
    return peft_model, parameters, ours


def reference_gradients(model, parameters, row, scale):
    model.zero_grad()
    logits = model(input_ids=torch.tensor(row.input_ids)[None]).logits[0]
    labels = torch.tensor(row.labels)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    loss = functional.cross_entropy(wide, labels, reduction="sum", ignore_index=IGNORE)
    (loss * scale).backward()
    return float(loss.detach()), flat(parameters, parameters)


def flat(parameters, names):
    return torch.cat([parameters[name].grad.double().flatten() for name in names])


@pytest.mark.parametrize("ops", [PLAIN, PLAIN_GPU], ids=["plain", "plain on a GPU"])
@pytest.mark.parametrize("family", ["smollm2 (GQA, tied)", "biased llama", "mistral (no window)"])
def test_gradients_in_fp16_are_as_exact_as_those_of_peft(family, ops, tmp_path):
    peft_model, parameters, ours = rounded_pair(family, tmp_path, ops)
    scale, our_errors, their_errors = 2.0**10 / TOKENS, [], []
    for row in (random_row(seed=seed) for seed in range(5)):
        _, theirs = reference_gradients(peft_model.half(), parameters, row, scale)
        exact_loss, exact = reference_gradients(peft_model.double(), parameters, row, scale)
        loss, _ = gradients(ours, row, scale=scale)
        assert loss == pytest.approx(exact_loss, rel=1e-3)
        our_errors.append(relative(flat(ours.lora_state(), parameters), exact))
        their_errors.append(relative(theirs, exact))
    # 1.05: both round to 11 bits at about the same places, and which rounding is luckier varies
    assert sum(our_errors) <= 1.05 * sum(their_errors)
    assert max(our_errors) < 0.02


def test_gradients_below_the_range_of_fp16_are_saved_by_a_scale(tmp_path):
    reference_model("smollm2 (GQA, tied)").save_pretrained(tmp_path)
    exact, half = load(tmp_path), load(tmp_path, dtype=torch.float16)
    for ours in (exact, half):
        generator = torch.Generator().manual_seed(0)
        ours.lora_flat().copy_(torch.randn(ours.lora_flat().shape, generator=generator) * 0.1)
        ours.refresh()
    row, faint = random_row(), 2.0**-24  # as the mean of many rows
    gradients(exact, row)
    want = exact.lora_flat().grad
    gradients(half, row, scale=faint)
    assert relative(half.lora_flat().grad / faint, want) > 0.3
    gradients(half, row, scale=faint * 65536.0)
    assert relative(half.lora_flat().grad / (faint * 65536.0), want) < 0.03


def test_a_scale_too_large_for_fp16_leaves_no_finite_gradient_norm(tmp_path):
    reference_model("smollm2 (GQA, tied)").save_pretrained(tmp_path)
    ours = load(tmp_path, dtype=torch.float16)
    row = random_row()
    loss, _ = gradients(ours, row, scale=2.0**40)
    assert not ours.lora_flat().grad.norm().isfinite()
    again, _ = gradients(ours, row, scale=1.0)  # nothing of it is left in the buffers
    assert again == loss
    assert ours.lora_flat().grad.norm().isfinite()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    _, _, ours = adapted_pair("smollm2 (GQA, tied)", tmp_path_factory.mktemp("tiny"))
    return ours


def test_a_packed_row_equals_its_documents_alone(tiny):
    starts = (0, 40, 41, 100)
    packed = random_row(starts=starts)
    loss, packed_gradients = gradients(tiny, packed)
    bounds = [*starts, TOKENS]
    total, summed = 0.0, {name: torch.zeros_like(g) for name, g in packed_gradients.items()}
    logits = tiny.logits(packed.input_ids, starts=packed.starts)
    for start, stop in pairwise(bounds):
        alone = Row(
            input_ids=packed.input_ids[start:stop],
            labels=packed.labels[start:stop],
            starts=np.array([0]),
        )
        assert relative(logits[start:stop], tiny.logits(alone.input_ids)) < TOLERANCE
        part, part_gradients = gradients(tiny, alone)
        total += part
        for name, gradient in part_gradients.items():
            summed[name] += gradient
    assert loss == pytest.approx(total, rel=TOLERANCE)
    for name, gradient in packed_gradients.items():
        assert relative(gradient, summed[name]) < TOLERANCE


def test_a_document_does_not_see_its_neighbour(tiny):
    row = random_row(starts=(0, 70))
    changed = row.input_ids.copy()
    changed[:70] = (changed[:70] + 1) % VOCAB
    before = tiny.logits(row.input_ids, starts=row.starts)
    after = tiny.logits(changed, starts=row.starts)
    assert torch.equal(before[70:], after[70:])
    assert not torch.equal(before[:70], after[:70])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_recomputing_is_bit_identical_to_keeping(dropout, dtype, tmp_path):
    reference_model("smollm2 (GQA, tied)").save_pretrained(tmp_path)
    lora = LoraSpec(r=4, alpha=8.0, dropout=dropout, target_modules=LINEAR_MODULES)
    ours = load(tmp_path, lora=lora, dtype=dtype)
    for tensor in ours.lora_state().values():
        tensor.uniform_(-0.1, 0.1)
    ours.refresh()
    row = random_row(starts=(0, 60))
    kept_loss, kept = gradients(ours, row, seed=5)
    for layers in (
        ["attention"] * 3, ["outputs"] * 3, ["input"] * 3, ["input", "all", "outputs"],
        ["attention", "outputs", "input"],
    ):  # fmt: skip
        loss, got = gradients(ours, row, policy=saving(*layers), seed=5)
        assert loss == kept_loss
        assert all(torch.equal(got[name], kept[name]) for name in kept)


def test_dropout_changes_with_its_seed_and_its_gradient_is_the_slope_of_its_loss(tmp_path):
    reference_model("smollm2 (GQA, tied)").save_pretrained(tmp_path)
    lora = LoraSpec(r=4, alpha=8.0, dropout=0.5, target_modules=LINEAR_MODULES)
    ours = load(tmp_path, lora=lora, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    state = ours.lora_state()
    for tensor in state.values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    ours.refresh()
    row = random_row(tokens=40)
    loss, gradient = gradients(ours, row, seed=1)
    assert gradients(ours, row, seed=2)[0] != loss
    assert gradients(ours, row, seed=1)[0] == loss

    direction = {n: torch.randn(t.shape, generator=generator) for n, t in state.items()}
    start = {name: tensor.clone() for name, tensor in state.items()}
    step, losses = 1e-3, []
    for sign in (1, -1):
        for name, tensor in state.items():
            tensor.copy_(start[name] + sign * step * direction[name])
        ours.refresh()
        losses.append(gradients(ours, row, seed=1)[0])
    slope = (losses[0] - losses[1]) / (2 * step)
    expected = sum(float((gradient[n] * direction[n]).sum()) for n in state)
    # central difference: third derivatives and the fp32 loss leave about 1e-3 of the slope
    assert slope == pytest.approx(expected, rel=1e-2)


def test_gradients_accumulate_and_scale(tiny):
    row = random_row()
    _, once = gradients(tiny, row)
    _, half = gradients(tiny, row, scale=0.5)
    tiny.loss_and_grad(row, scale=0.5, policy=keep(tiny), dropout_seed=None)
    for name, tensor in tiny.lora_state().items():
        assert relative(half[name], once[name] * 0.5) < 1e-6
        assert relative(tensor.grad, once[name]) < 1e-6


def test_a_row_may_be_broken_off_between_any_two_layers(tiny):
    class Enough(Exception):
        pass

    row, called = random_row(), []
    _, whole = gradients(tiny, row)

    def break_off_at(call):
        called.clear()

        def between_layers():
            called.append(True)
            if len(called) == call:
                raise Enough

        return between_layers

    options = {"scale": 1.0, "policy": keep(tiny), "dropout_seed": None}
    layers = len(tiny.layers)
    for call in range(1, 2 * layers + 1):
        with pytest.raises(Enough):
            tiny.loss_and_grad(row, between_layers=break_off_at(call), **options)
        tiny.release()
        _, again = gradients(tiny, row)
        assert all(torch.equal(again[name], whole[name]) for name in whole)
    tiny.loss_and_grad(row, between_layers=break_off_at(0), **options)
    assert len(called) == 2 * layers
    with pytest.raises(Enough):
        tiny.token_losses(row, adapted=True, between_layers=break_off_at(layers))


def test_a_new_adapter_is_the_identity(tmp_path):
    reference_model("llama-2 (MHA)").save_pretrained(tmp_path)
    ours = load(tmp_path)
    ids = random_row().input_ids
    assert relative(ours.logits(ids), ours.logits(ids, adapted=False)) < 1e-6
    assert not any(t.any() for n, t in ours.lora_state().items() if "lora_B" in n)
    assert all(t.any() for n, t in ours.lora_state().items() if "lora_A" in n)


def test_token_losses_sum_to_the_training_loss(tiny):
    row = random_row(starts=(0, 33))
    losses = tiny.token_losses(row, adapted=True)
    assert losses.shape == (TOKENS,)
    assert float(losses[row.labels == IGNORE].abs().sum()) == 0.0
    assert float(losses.sum()) == pytest.approx(gradients(tiny, row)[0], rel=1e-6)
    assert float(tiny.token_losses(row, adapted=False).sum()) != pytest.approx(float(losses.sum()))


class RoundTrip:
    """The weights of another source, with its linears as NF4 gives them back."""

    def __init__(self, source):
        self.source, self.shape = source, source.shape

    def names(self):
        return self.source.names()

    def read(self, name):
        weight = self.source.read(name)
        if name.endswith("_proj.weight"):
            dequantise(quantise(weight), weight)
        return weight


def test_a_decoder_in_4_bits_equals_a_dense_one_of_the_rounded_linears(tmp_path):
    reference_model("biased llama").save_pretrained(tmp_path)
    ref = resolve_model(str(tmp_path), revision=None, offline=True, cache=None, emit=lambda e: None)
    source = open_weights(ref)
    unrounded = Decoder(source, lora=SPEC, dtype=torch.float32)
    dense = Decoder(RoundTrip(source), lora=SPEC, dtype=torch.float32)
    packed = Decoder(source, lora=SPEC, dtype=torch.float32, use_4bit=True)
    for decoder in (unrounded, dense, packed):
        generator = torch.Generator().manual_seed(0)
        for tensor in decoder.lora_state().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        decoder.refresh()
    row = random_row(starts=(0, 60))
    for layers in (["all"] * 3, ["input"] * 3):
        loss, want = gradients(dense, row, policy=saving(*layers))
        packed_loss, got = gradients(packed, row, policy=saving(*layers))
        # the same numbers in the same order; alignment may choose another kernel of the matmul
        assert packed_loss == pytest.approx(loss, rel=1e-6)
        for name, gradient in want.items():
            assert relative(got[name], gradient) < 1e-6, name
    assert gradients(unrounded, row)[0] != pytest.approx(loss, rel=1e-4)
