"""Rows of new tokens against PEFT's ``trainable_token_indices``, and against fp64."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from repotune.kernels import PLAIN, PLAIN_GPU
from repotune.model import Decoder, open_weights
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, ModelRef, Policy, Row
from repotune.training.optimizer import AdamW

VOCAB, NEW, GROWN = 301, (301, 302, 303, 304), 312
TOLERANCE = 1e-5  # relative L2 in fp32: the bound the project promises
LORA = LoraSpec(
    r=4, alpha=8.0, dropout=0.0, target_modules=LINEAR_MODULES, trainable_token_indices=NEW
)
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def write_base(folder, *, tied):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=100, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).float()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.3, 0.3).add_(1.0 if parameter.dim() == 1 else 0.0)
    model.save_pretrained(folder)
    return ModelRef(name="tiny", revision=None, path=str(folder), digest="")


def open_decoder(base, **options):
    given = {"lora": LORA, "dtype": torch.float32, **options}
    return Decoder(open_weights(base, vocab_size=GROWN), **given)


def peft_pair(folder, *, tied, **options):
    """The base with as many rows in PEFT's hands, and ours, with the same random numbers."""
    base = write_base(folder, tied=tied)
    ours = open_decoder(base, **options)
    model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    model.resize_token_embeddings(GROWN, mean_resizing=False)
    tables = [model.model.embed_tokens, *([] if tied else [model.lm_head])]
    for table in tables:
        table.weight.data[VOCAB:] = table.weight.data[:VOCAB].mean(0)
    names = ["embed_tokens", *([] if tied else ["lm_head"])]
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=list(LINEAR_MODULES),
        trainable_token_indices={name: list(NEW) for name in names},
    )  # fmt: skip
    theirs = get_peft_model(model, config)
    parameters = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    state = ours.lora_state()
    assert state.keys() == parameters.keys()
    for name, parameter in parameters.items():
        parameter.data.normal_(0, 0.1)
        state[name].copy_(parameter.data)
    ours.refresh()
    return theirs, parameters, ours


def row_with_new_tokens(seed=3, tokens=120):
    """New tokens are read and asked for, some several times; id 304 is only ever asked for."""
    ids = np.random.default_rng(seed).integers(0, VOCAB, tokens)
    ids[[7, 20, 80]] = NEW[0]
    ids[[30, 31]] = NEW[1]
    ids[90] = NEW[2]
    labels = np.append(ids[1:], IGNORE)
    labels[59] = IGNORE
    labels[[100, 110]] = NEW[3]
    return Row(input_ids=ids, labels=labels, starts=np.array([0, 60]))


def policy(decoder, saving="all"):
    return Policy(layers=(LayerPolicy(saving=saving),) * len(decoder.layers), reason="")


def gradients(decoder, row, *, scale=1.0, saving="all"):
    decoder.lora_flat().grad.zero_()
    decoder.loss_and_grad(row, scale=scale, policy=policy(decoder, saving), dropout_seed=None)
    return {name: tensor.grad.clone() for name, tensor in decoder.lora_state().items()}


def relative(got, want):
    return float((got - want).norm() / want.norm())


def reference(model, row):
    """Logits of a row's documents, each by itself."""
    bounds = [*row.starts.tolist(), len(row.input_ids)]
    ids = torch.tensor(row.input_ids)
    parts = [model(input_ids=ids[a:b][None]).logits[0] for a, b in pairwise(bounds)]
    return torch.cat(parts)


def backward(logits, row, scale=1.0):
    labels = torch.tensor(row.labels)
    loss = functional.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORE)
    (loss * scale).backward()


@TIED
@pytest.mark.parametrize("saving", ["all", "input"])
def test_logits_and_all_gradients_equal_those_of_peft(tied, saving, tmp_path):
    theirs, parameters, ours = peft_pair(tmp_path, tied=tied)
    row = row_with_new_tokens()
    logits = reference(theirs, row)
    assert relative(ours.logits(row.input_ids, starts=row.starts), logits.detach()) < TOLERANCE
    backward(logits, row, scale=0.25)
    ours_by_name = gradients(ours, row, scale=0.25, saving=saving)
    for name, parameter in parameters.items():
        assert relative(ours_by_name[name], parameter.grad) < TOLERANCE, name


@TIED
def test_the_base_has_the_mean_of_its_rows_and_comes_back_at_any_time(tied, tmp_path):
    theirs, _, ours = peft_pair(tmp_path, tied=tied)
    row = row_with_new_tokens()
    with torch.no_grad():
        tuned = reference(theirs, row)
        with theirs.disable_adapter():
            base = reference(theirs, row)
    for adapted, expected in [(True, tuned), (False, base), (False, base), (True, tuned)]:
        got = ours.logits(row.input_ids, starts=row.starts, adapted=adapted)
        assert relative(got, expected) < TOLERANCE
    assert relative(base, tuned) > 0.01
    losses = {adapted: ours.token_losses(row, adapted=adapted).sum() for adapted in (True, False)}
    labels = torch.tensor(row.labels)
    for adapted, logits in ((True, tuned), (False, base)):
        expected = functional.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORE)
        assert float(losses[adapted]) == pytest.approx(float(expected), rel=TOLERANCE)


def test_a_row_is_trained_on_the_trained_rows_whatever_was_asked_before(tmp_path):
    _, _, ours = peft_pair(tmp_path, tied=True)
    row = row_with_new_tokens()
    before = gradients(ours, row)
    ours.token_losses(row, adapted=False)
    after = gradients(ours, row)
    assert all(torch.equal(before[name], after[name]) for name in before)


@TIED
def test_the_optimizer_moves_the_rows_and_the_base_stays(tied, tmp_path):
    ours = open_decoder(write_base(tmp_path, tied=tied))
    row = row_with_new_tokens()
    base = ours.logits(row.input_ids, adapted=False)
    start = {name: tensor.clone() for name, tensor in ours.lora_state().items()}
    gradients(ours, row)
    optimizer = AdamW(ours.lora_flat(), ours.lora_state(), weight_decay=0.0)
    optimizer.step(1e-2, figures=torch.zeros(1))
    ours.refresh()
    moved = {
        name for name, tensor in ours.lora_state().items() if not torch.equal(tensor, start[name])
    }
    assert {name for name in start if "token_adapter" in name} <= moved
    assert torch.equal(ours.logits(row.input_ids, adapted=False), base)


def test_they_begin_among_the_other_rows_as_the_seed_decides(tmp_path):
    base = write_base(tmp_path, tied=True)
    (rows,) = (
        tensor for name, tensor in open_decoder(base).lora_state().items() if "token" in name
    )
    again = open_decoder(base).lora_state()[
        "model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    other = open_decoder(base, seed=1).lora_state()[
        "model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    embedding = open_weights(base).read("model.embed_tokens.weight")
    assert torch.equal(rows, again)
    assert not torch.equal(rows, other)
    # A table's rows are 48 numbers; norms of those drawn around their mean vary by a tenth.
    norms = embedding.norm(dim=1)
    assert (rows.norm(dim=1) > 0.6 * norms.mean()).all()
    assert (rows.norm(dim=1) < 1.5 * norms.mean()).all()


def test_without_new_tokens_nothing_is_different(tmp_path):
    base = write_base(tmp_path, tied=True)
    plain = replace(LORA, trainable_token_indices=())
    with_rows, without = (
        open_decoder(base),
        Decoder(open_weights(base), lora=plain, dtype=torch.float32),
    )
    state = with_rows.lora_state()
    for name, tensor in without.lora_state().items():
        assert torch.equal(tensor, state[name])
    ids = np.arange(40)
    assert torch.equal(with_rows.logits(ids)[:, :VOCAB], without.logits(ids))


def test_of_all_rows_to_add_the_mean_disturbs_least(tmp_path):
    """By Jensen's inequality its probability is at most 1 / V, whatever the hidden state."""
    base = write_base(tmp_path, tied=False)
    ours = open_decoder(base)
    logits = ours.logits(np.random.default_rng(0).integers(0, VOCAB, 100), adapted=False)
    assert (logits.softmax(1)[:, VOCAB:] <= 1 / VOCAB).all()


@pytest.mark.parametrize("ops", [PLAIN, PLAIN_GPU], ids=["plain", "plain on a GPU"])
def test_in_fp16_their_gradients_are_as_exact_as_those_of_peft(ops, tmp_path):
    theirs, parameters, ours = peft_pair(tmp_path, tied=True, dtype=torch.float16, ops=ops)
    for name, parameter in parameters.items():
        parameter.data = parameter.data.half().float()
        ours.lora_state()[name].copy_(parameter.data)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.half().float()
    ours.refresh()
    row, scale = row_with_new_tokens(), 2.0**8 / 120
    name = "model.embed_tokens.token_adapter.trainable_tokens_delta"
    found = gradients(ours, row, scale=scale)[name].double()
    exact = gradient_in(theirs.double(), parameters, row, scale)[name]
    rounded = gradient_in(theirs.half(), parameters, row, scale)[name]
    # Both round to 11 bits at about the same places.
    assert relative(found, exact) < 1.5 * relative(rounded, exact)
    assert relative(found, exact) < 0.02


def gradient_in(model, parameters, row, scale):
    model.zero_grad()
    logits = reference(model, row)
    backward(logits.float() if logits.dtype == torch.float16 else logits, row, scale)
    return {name: parameter.grad.double() for name, parameter in parameters.items()}
