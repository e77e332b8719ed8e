"""Out of memory at chosen passes: the next rung, the same step, the same result."""

from dataclasses import asdict

import pytest
import torch

from repotune.errors import DoesNotFit, TrainingError
from repotune.events import Healed, StepDone
from repotune.records import LayerPolicy, Policy
from repotune.training import train
from repotune.training.order import Sample, cut

from .tiny import POLICY, TOKENS, TinyModel, TinyRows, settings, tiny_row

LESS = Policy(layers=(LayerPolicy(saving="input"),), reason="all layers save only their input.")
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Small(TinyModel):
    """Runs out of memory where more than ``tokens`` pass at once, or more than LESS is kept."""

    def __init__(self, *, tokens=10**9, only_less=False, after=0, error=OUT_OF_MEMORY):
        super().__init__()
        self.tokens, self.only_less, self.left, self.error = tokens, only_less, after, error
        self.passes, self.released = [], 0

    def release(self):
        self.released += 1

    def loss_and_grad(self, row, *, policy, **options):
        self.left -= 1
        too_much = len(row.input_ids) > self.tokens or (self.only_less and policy is not LESS)
        # Some of the gradient is there already when memory runs out.
        loss = super().loss_and_grad(row, policy=policy, **options)
        if too_much and self.left < 0:
            raise self.error
        self.passes.append((len(row.input_ids), policy.reason))
        return loss


def run(model, folder, **changes):
    events = []
    options = {"emit": events.append, "rows_per_pass": 4, **changes}
    result = train(model, TinyRows(), **settings(folder, **options))
    healed = [event for event in events if isinstance(event, Healed)]
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    return result, healed, losses


def replan(tokens, policy):
    return LESS if policy is POLICY else POLICY if policy is None else None


@pytest.mark.parametrize("after", [0, 1, 5])
def test_less_is_kept_first_and_the_result_is_the_same(after, tmp_path):
    model, plain = Small(only_less=True, after=after), TinyModel()
    _, healed, losses = run(model, tmp_path / "a", replan=replan)
    _, none, expected = run(plain, tmp_path / "b")
    assert none == []
    (one,) = healed
    assert (one.step, one.rows_per_pass, one.tokens_per_pass) == (after + 1, 4, 4 * TOKENS)
    assert one.passes["policy"] == asdict(LESS)
    assert LESS.reason in one.remedy
    assert model.released == 1
    assert losses == expected
    for name, tensor in plain.lora_state().items():
        assert torch.equal(model.lora_state()[name], tensor)


def test_then_rows_are_halved_and_the_global_batch_stays(tmp_path):
    model, plain = Small(tokens=TOKENS), TinyModel()
    result, healed, losses = run(model, tmp_path / "a", replan=replan)
    _, _, expected = run(plain, tmp_path / "b")
    # less for 4, then 2 rows as much as fits, less for 2, then 1.
    assert [event.rows_per_pass for event in healed] == [4, 2, 2, 1]
    assert {event.step for event in healed} == {1}
    assert "the global batch stays what it was" in healed[1].remedy
    assert result.tokens == 8 * 4 * TOKENS  # each step is counted once
    assert losses == pytest.approx(expected, rel=1e-5)  # sums in another order
    for name, tensor in plain.lora_state().items():
        torch.testing.assert_close(model.lora_state()[name], tensor, rtol=1e-4, atol=1e-6)


def test_rows_that_do_not_come_out_even_all_pass(tmp_path):
    model = Small(tokens=2 * TOKENS)
    options = {"batch_size": 6, "rows_per_pass": 6, "gradient_accumulation_steps": 1, "steps": 1}
    _, healed, _ = run(model, tmp_path, **options)
    assert [event.rows_per_pass for event in healed] == [3, 1]
    assert [tokens for tokens, _ in model.passes] == [TOKENS] * 6


def test_without_a_rung_left_it_stops_with_the_way_out(tmp_path):
    with pytest.raises(DoesNotFit, match="allow_shorter_rows = true, a smaller max_seq_length or"):
        run(Small(tokens=TOKENS - 1), tmp_path)


def test_where_nothing_was_recomputed_the_way_out_is_to_recompute(tmp_path):
    # All that is kept although memory ran out: gradient_checkpointing is off.
    with pytest.raises(DoesNotFit, match="--resume, and with --gradient-checkpointing if that is"):
        run(Small(tokens=TOKENS - 1), tmp_path / "a")
    with pytest.raises(DoesNotFit) as said:
        run(Small(tokens=TOKENS - 1), tmp_path / "b", replan=replan)
    assert "--gradient-checkpointing" not in str(said.value)


def test_what_was_saved_before_memory_ran_out_is_there(tmp_path):
    model = Small(tokens=TOKENS - 1, after=3)
    with pytest.raises(DoesNotFit, match=r"ran out at step 4 .*go on with --resume"):
        run(model, tmp_path, batch_size=4, gradient_accumulation_steps=1)
    # No save was due yet: the last good step is saved all the same.
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_rows_are_cut_only_with_consent_and_not_too_short(tmp_path, monkeypatch):
    monkeypatch.setattr("repotune.training.healing.LEAST_TOKENS", TOKENS // 4)
    model = Small(tokens=TOKENS // 2)
    options = {"rows_per_pass": 1, "may_cut_rows": True}
    _, healed, losses = run(model, tmp_path / "a", **options)
    _, _, expected = run(TinyModel(), tmp_path / "b")
    assert [event.tokens_per_pass for event in healed] == [TOKENS // 2]
    assert "as allow_shorter_rows permits" in healed[0].remedy
    # The tiny model sees one token at a time, so a cut costs it nothing: no label is lost.
    assert losses == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DoesNotFit, match="tokens goes through"):
        run(Small(tokens=2), tmp_path / "c", **options)


def test_a_cut_loses_no_label_and_keeps_the_documents():
    row = tiny_row(0)
    row = type(row)(input_ids=row.input_ids, labels=row.labels, starts=row.starts)
    (first, second, third) = cut([Sample(index=0, row=row, dropout_seed=None)], 3)
    parts = [sample.row for sample in (first, second, third)]
    assert [len(part.input_ids) for part in parts] == [4, 4, 4]
    assert [part.starts.tolist() for part in parts] == [[0], [0], [0]]
    assert [id_ for part in parts for id_ in part.input_ids] == row.input_ids.tolist()
    assert [label for part in parts for label in part.labels] == row.labels.tolist()
    with_documents = type(row)(
        input_ids=row.input_ids, labels=row.labels, starts=row.starts.__class__((4,), int)
    )
    with_documents.starts[:] = [0, 3, 6, 9]
    halves = cut([Sample(index=0, row=with_documents, dropout_seed=None)], 2)
    assert [half.row.starts.tolist() for half in halves] == [[0, 3], [0, 3]]


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
    ],
)
def test_out_of_memory_without_a_class_of_its_own_heals_too(words, tmp_path):
    _, healed, _ = run(Small(tokens=2 * TOKENS, error=RuntimeError(words)), tmp_path)
    assert [event.rows_per_pass for event in healed] == [2]


def test_after_the_weights_have_changed_nothing_is_repeated(tmp_path):
    class Late(TinyModel):
        def refresh(self):
            if any(tensor.grad.any() for tensor in self.masters.values()):
                raise OUT_OF_MEMORY
            super().refresh()

    with pytest.raises(TrainingError, match="while the weights were updated at step 1: close"):
        run(Late(), tmp_path, replan=replan)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("Unable to determine the device handle for GPU0: GPU is lost."),
    ],
)
def test_a_lost_gpu_is_a_sentence_with_the_way_on(error, tmp_path):
    model = Small(tokens=0, after=2, error=error)
    with pytest.raises(TrainingError, match=r"The GPU was lost \(.*go on from step-000002 with"):
        run(model, tmp_path, save_steps=1)


def test_an_error_of_ours_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(Small(tokens=0, error=RuntimeError("shapes differ")), tmp_path)
