"""Which row comes when."""

from repotune.training.order import SampleOrder

from .tiny import TinyRows


def indices(order, cursor, size):
    return [sample.index for sample in order.batch(cursor, size)]


def test_an_epoch_neither_repeats_nor_skips_a_row_and_batches_span_epochs():
    order = SampleOrder(TinyRows(10), seed=1, dropout=False)
    sequence = [index for step in range(10) for index in indices(order, step * 4, 4)]
    epochs = [sequence[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_next_eight_batches_do_not_depend_on_the_batches_before():
    rows = TinyRows(10)
    went_on = SampleOrder(rows, seed=1, dropout=True)
    for step in range(5):
        went_on.batch(step * 4, 4)
    resumed = SampleOrder(rows, seed=1, dropout=True)
    for step in range(5, 13):
        assert resumed.batch(step * 4, 4) == went_on.batch(step * 4, 4)


def test_the_seed_decides():
    rows = TinyRows(10)
    assert indices(SampleOrder(rows, seed=1, dropout=False), 0, 10) != indices(
        SampleOrder(rows, seed=2, dropout=False), 0, 10
    )


def test_each_position_has_dropout_of_its_own_if_there_is_dropout():
    rows = TinyRows(3)
    batch = SampleOrder(rows, seed=1, dropout=True).batch(0, 12)
    assert len({sample.dropout_seed for sample in batch}) == 12
    assert {s.dropout_seed for s in SampleOrder(rows, seed=1, dropout=False).batch(0, 12)} == {None}
    other = SampleOrder(rows, seed=2, dropout=True).batch(0, 12)
    assert not {s.dropout_seed for s in batch} & {s.dropout_seed for s in other}
