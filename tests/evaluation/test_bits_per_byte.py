"""Bits per byte against cross-entropy over the full logits of transformers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from repotune.errors import TrainingError
from repotune.evaluation.bits_per_byte import bits_per_byte, nats_by_file, pack
from repotune.evaluation.excerpts import choose_excerpts
from repotune.events import StageProgress
from repotune.records import IGNORE

from .tiny import LORA, document, make_tokenizer, open_decoder, random_model, randomise

WINDOW = 40
TEXTS = [
    "def f(x):\n    return x\n",
    "# 한글 주석\n" * 9,
    "y",
    "z = [1, 2, 3]\n" * 11,
    "import os\n",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return random_model(folder), folder


def merged(model, decoder):
    """W + alpha / r · B A, in a copy of the reference."""
    state = model.state_dict()
    adapter = decoder.lora_state()
    for name in adapter:
        if "lora_A" in name:
            weight = name.replace("lora_A.", "")
            delta = adapter[name.replace("lora_A", "lora_B")] @ adapter[name]
            state[weight] = state[weight] + LORA.alpha / LORA.r * delta
    copy = type(model)(model.config).float().eval()
    copy.load_state_dict(state)
    return copy


@torch.no_grad()
def reference_nats(model, sequence, first_scored):
    """Window by window, each from its own first token on."""
    total = 0.0
    for start in range(0, len(sequence) - 1, WINDOW):
        part = torch.tensor(sequence[start : start + WINDOW + 1].astype(np.int64))
        logits = model(input_ids=part[None, :-1]).logits[0].double()
        losses = functional.cross_entropy(logits, part[1:], reduction="none")
        unscored = max(0, first_scored - 1 - start)
        total += float(losses[unscored:].sum())
    return total


@pytest.mark.parametrize("bos", [True, False])
def test_bits_per_byte_equals_full_logits_in_transformers(bos, model, tmp_path):
    base_model, folder = model
    tokenizer = make_tokenizer(tmp_path, merges=[("r", "e"), (" ", " ")], bos=bos)
    decoder = open_decoder(folder)
    randomise(decoder)
    documents = [document(f"{i}.py", text) for i, text in enumerate(TEXTS)]
    excerpts = choose_excerpts(
        documents, tokenizer, max_seq_length=WINDOW, max_tokens=None, seed=0
    ).excerpts
    assert len(excerpts) == (5 if bos else 4)
    events = []
    base, tuned = nats_by_file(
        decoder, excerpts, max_seq_length=WINDOW, stage="s", emit=events.append
    )
    for reference, nats in ((base_model, base), (merged(base_model, decoder), tuned)):
        expected = [reference_nats(reference, e.sequence, e.first_scored) for e in excerpts]
        # fp32 through two layers, sums of up to 150 losses
        np.testing.assert_allclose(nats, expected, rtol=1e-5)
    assert not np.allclose(base, tuned)
    byte_counts = np.array([e.bytes_scored for e in excerpts])
    if bos:
        assert byte_counts.tolist() == [len(text.encode()) for text in TEXTS]
    expected_bits = base.sum() / math.log(2) / byte_counts.sum()
    assert bits_per_byte(base, byte_counts) == pytest.approx(expected_bits, rel=1e-12)
    done = [event.done for event in events if isinstance(event, StageProgress)]
    assert done == sorted(done)
    assert done[-1] == sum(e.tokens for e in excerpts)


def test_uniform_predictions_cost_log2_of_the_vocabulary(tmp_path):
    """The definition on a case that needs no reference: all logits equal."""
    model = random_model(tmp_path)
    model.lm_head.weight.data.zero_()
    model.save_pretrained(tmp_path)
    tokenizer = make_tokenizer(tmp_path, bos=True)
    excerpts = choose_excerpts(
        [document("a.py", "abc한")], tokenizer, max_seq_length=4, max_tokens=None, seed=0
    ).excerpts
    base, _ = nats_by_file(
        open_decoder(tmp_path), excerpts, max_seq_length=4, stage="s", emit=lambda event: None
    )
    # one token a byte
    assert bits_per_byte(base, np.array([6])) == pytest.approx(math.log2(264), rel=1e-6)


@pytest.mark.parametrize("bos", [True, False])
def test_packing_scores_every_token_once_and_in_its_file(bos, tmp_path):
    tokenizer = make_tokenizer(tmp_path, bos=bos)
    documents = [document(f"{i:02}.py", "x" * size) for i, size in enumerate((7, 40, 41, 3, 95, 2))]
    excerpts = choose_excerpts(
        documents, tokenizer, max_seq_length=WINDOW, max_tokens=None, seed=0
    ).excerpts
    scored = dict.fromkeys(range(len(excerpts)), 0)
    rows = list(pack(excerpts, WINDOW))
    for row, owners in rows:
        assert len(row.input_ids) == len(row.labels) <= WINDOW
        assert row.starts[0] == 0
        bounds = [*row.starts, len(row.labels)]
        for owner, start, stop in zip(owners, bounds, bounds[1:], strict=False):
            assert start < stop
            scored[owner] += int((row.labels[start:stop] != IGNORE).sum())
    assert scored == {i: e.tokens for i, e in enumerate(excerpts)}
    assert len(rows) < sum(-(-len(e.sequence) // WINDOW) for e in excerpts)  # pieces do share rows


def test_a_model_whose_losses_are_not_numbers_is_named(model, tmp_path):
    tokenizer = make_tokenizer(tmp_path, bos=True)
    decoder = open_decoder(model[1])
    next(iter(decoder.lora_state().values())).fill_(math.nan)
    decoder.refresh()
    excerpts = choose_excerpts(
        [document("a.py", "x = 1\n")], tokenizer, max_seq_length=WINDOW, max_tokens=None, seed=0
    ).excerpts
    with pytest.raises(TrainingError, match=r"The tuned model's loss on a\.py is not a finite"):
        nats_by_file(decoder, excerpts, max_seq_length=WINDOW, stage="s", emit=lambda event: None)
