"""One step over one global batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from repotune.errors import TrainingError
from repotune.records import IGNORE, Row
from repotune.training.optimizer import AdamW
from repotune.training.order import Sample
from repotune.training.step import joined, tokens_in, train_step

from .tiny import POLICY, TinyModel, tiny_row


class Poisoned(TinyModel):
    """Gives a loss, or a gradient, that is not a number for one row."""

    def __init__(self, row, *, loss=None, gradient=None):
        super().__init__()
        self.row, self.bad_loss, self.bad_gradient = row, loss, gradient

    def loss_and_grad(self, row, **options):
        loss = super().loss_and_grad(row, **options)
        if row is not self.row:
            return loss
        if self.bad_gradient is not None:
            next(iter(self.masters.values())).grad[0, 0] = self.bad_gradient
        return loss if self.bad_loss is None else torch.tensor(self.bad_loss)


def samples(*indices):
    return [Sample(index=i, row=tiny_row(i), dropout_seed=None) for i in indices]


def one_step(model, batch, **changes):
    options = {
        "step": 1,
        "learning_rate": 0.1,
        "max_grad_norm": 1e9,
        "policy": POLICY,
        "rows_per_pass": 1,
        "loss_scale": None,
    }
    optimizer = AdamW(model.lora_flat(), model.lora_state(), weight_decay=0.0)
    return train_step(
        model,
        optimizer,
        batch,
        between_layers=lambda: None,
        between_passes=lambda: None,
        **{**options, **changes},
    )


def test_the_loss_is_the_mean_over_all_targets_of_the_global_batch():
    model, batch = TinyModel(), samples(0, 1, 2, 3)
    counts = [int((s.row.labels != IGNORE).sum()) for s in batch]
    assert len(set(counts)) > 1  # else a mean of means would pass
    # One flat batch, one mean, plain autograd.
    reference = TinyModel()
    flat = Row(
        input_ids=np.concatenate([s.row.input_ids for s in batch]),
        labels=np.concatenate([s.row.labels for s in batch]),
        starts=np.array([0]),
    )
    mean = reference.loss(flat) / sum(counts)
    gradients = torch.autograd.grad(mean, list(reference.copies.values()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))

    figures = one_step(model, batch)
    assert figures.loss == pytest.approx(float(mean.detach()), rel=1e-6)
    assert figures.grad_norm == pytest.approx(norm, rel=1e-5)
    for tensor, gradient in zip(model.lora_state().values(), gradients, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_the_step_before_is_gone():
    model, batch = TinyModel(), samples(0, 1)
    first = one_step(model, batch, learning_rate=0.0)
    assert one_step(model, batch, learning_rate=0.0) == first


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_row_and_changes_nothing(value):
    batch = samples(4, 5, 6)
    model = Poisoned(batch[1].row, loss=value)
    before = {name: tensor.clone() for name, tensor in model.lora_state().items()}
    with pytest.raises(TrainingError, match=rf"loss became {value} at step 12 .*row 5\).*lower"):
        one_step(model, batch, step=12)
    assert all(torch.equal(before[n], t) for n, t in model.lora_state().items())


def test_a_gradient_that_is_not_finite_names_step_and_rows_and_changes_nothing():
    batch = samples(4, 5, 6)
    model = Poisoned(batch[1].row, gradient=math.nan)
    before = {name: tensor.clone() for name, tensor in model.lora_state().items()}
    with pytest.raises(TrainingError, match=r"gradient became nan at step 12 .*rows 4, 5, 6\)"):
        one_step(model, batch, step=12)
    assert all(torch.equal(before[n], t) for n, t in model.lora_state().items())


def test_a_batch_without_a_label_is_a_sentence():
    unlabelled = [replace(sample, row=without_labels(sample.row)) for sample in samples(4, 5)]
    with pytest.raises(TrainingError, match=r"Step 12 has nothing to learn .* rows 4, 5 holds"):
        one_step(TinyModel(), unlabelled, step=12)


def without_labels(row):
    return replace(row, labels=np.full_like(row.labels, IGNORE))


@pytest.mark.parametrize("loss_scale", [2.0**-3, 2.0**16, 2.0**30])
def test_a_loss_scale_changes_no_bit_in_fp32(loss_scale):
    plain, scaled = TinyModel(), TinyModel()
    for model in (plain, scaled):
        model.flat.add_(0.1)  # with B = 0 the gradient of A would be zero
        model.refresh()
    want = one_step(plain, samples(0, 1, 2), max_grad_norm=0.5)
    got = one_step(scaled, samples(0, 1, 2), max_grad_norm=0.5, loss_scale=loss_scale)
    assert got == replace(want, loss_scale=loss_scale)
    assert torch.equal(scaled.flat.grad, plain.flat.grad)
    assert torch.equal(scaled.flat, plain.flat)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_scaled_gradient_that_overflows_changes_nothing(value):
    batch = samples(4, 5, 6)
    model = Poisoned(batch[1].row, gradient=value)
    before = {name: tensor.clone() for name, tensor in model.lora_state().items()}
    figures = one_step(model, batch, loss_scale=65536.0)
    assert figures.grad_norm is None
    assert math.isfinite(figures.loss)
    assert all(torch.equal(before[n], t) for n, t in model.lora_state().items())


def test_no_loss_scale_makes_up_for_a_loss_that_is_not_a_number():
    batch = samples(4, 5, 6)
    model = Poisoned(batch[1].row, loss=math.nan)
    before = model.flat.clone()
    with pytest.raises(TrainingError, match=r"loss became nan .*row 5\)"):
        one_step(model, batch, loss_scale=65536.0)
    assert torch.equal(model.flat, before)


def test_padding_is_not_counted_as_tokens():
    ids, labels = np.arange(8), np.arange(8)
    whole = Row(input_ids=ids, labels=labels, starts=np.array([0, 5]))
    assert tokens_in(whole) == 8
    padded_labels = np.where(ids < 5, labels, IGNORE)
    assert tokens_in(Row(input_ids=ids, labels=padded_labels, starts=np.array([0, 5]))) == 5
    assert tokens_in(Row(input_ids=ids, labels=padded_labels, starts=np.array([0]))) == 8


@pytest.mark.parametrize("rows_per_pass", [2, 3, 4])
def test_how_many_rows_go_at_once_changes_nothing(rows_per_pass):
    alone, together = TinyModel(), TinyModel()
    one = one_step(alone, samples(0, 1, 2, 3))
    many = one_step(together, samples(0, 1, 2, 3), rows_per_pass=rows_per_pass)
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.tokens == one.tokens
    # fp32, the same sums in another order; Adam's first step divides by the gradient's size
    torch.testing.assert_close(together.flat.grad, alone.flat.grad, rtol=1e-5, atol=1e-7)


class Listening(TinyModel):
    """Notes the seed of each pass."""

    def __init__(self):
        super().__init__()
        self.seeds = []

    def loss_and_grad(self, row, *, dropout_seed, **options):
        self.seeds.append(dropout_seed)
        return super().loss_and_grad(row, dropout_seed=None, **options)


def seeds_of(seeds, rows_per_pass):
    batch = [replace(samples(i)[0], dropout_seed=seed) for i, seed in enumerate(seeds)]
    model = Listening()
    one_step(model, batch, rows_per_pass=rows_per_pass)
    return model.seeds


def test_a_row_alone_has_its_own_dropout_masks():
    assert seeds_of([2**64 - 1, 7, 9], rows_per_pass=1) == [2**64 - 1, 7, 9]
    assert seeds_of([2**64 - 1, 7, 9], rows_per_pass=2)[1:] == [9]
    assert seeds_of([None, None], rows_per_pass=2) == [None]


def test_the_dropout_masks_of_a_pass_depend_on_each_of_its_rows():
    passes = [[5, 6, 7], [5, 6, 8], [5, 9, 7], [4, 6, 7], [6, 5, 7], [5, 6], [5]]
    seeds = [seeds_of(one, rows_per_pass=3)[0] for one in passes]
    assert len(set(seeds)) == len(passes)
    assert all(0 <= seed < 2**64 for seed in seeds)
    # A run resumed by a later version must draw the same: the value itself is a promise.
    assert seeds[0] == 17063143635124281432


def test_joined_rows_keep_their_documents():
    rows = [
        Row(input_ids=np.arange(4), labels=np.arange(4) + 1, starts=np.array([0, 3])),
        Row(input_ids=np.arange(5), labels=np.arange(5) + 2, starts=np.array([0])),
        Row(input_ids=np.arange(2), labels=np.arange(2) + 3, starts=np.array([0, 1])),
    ]
    whole = joined(rows)
    assert whole.input_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1]
    assert whole.labels.tolist() == [1, 2, 3, 4, 2, 3, 4, 5, 6, 3, 4]
    assert whole.starts.tolist() == [0, 3, 4, 9, 10]
    assert joined(rows[:1]) is rows[0]
