"""Healing on a CUDA device, under caps of its memory that force each rung; `make test-gpu`."""

import os

import numpy as np
import pytest
import torch

from repotune.events import Healed, StepDone
from repotune.kernels import fastest_ops
from repotune.machine import deterministic_gpu
from repotune.model import Decoder
from repotune.model.weights import tensor_shapes
from repotune.records import IGNORE, LINEAR_MODULES, LayerPolicy, LoraSpec, Policy, Row, Shape
from repotune.training import latest, load, train

from .tiny import settings

pytestmark = pytest.mark.gpu

LORA = LoraSpec(r=8, alpha=16.0, dropout=0.0, target_modules=LINEAR_MODULES)
LAYERS, TOKENS, VOCAB = 8, 2048, 1003
SHAPE = Shape(
    model_type="llama", vocab_size=VOCAB, hidden_size=1024, intermediate_size=2816,
    num_hidden_layers=LAYERS, num_attention_heads=16, num_key_value_heads=16, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=1e4, rope_scaling=None, max_position_embeddings=4096,
    tie_word_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
)  # fmt: skip


def policy(saving, *, offloaded=False):
    layers = (LayerPolicy(saving=saving, offloaded=offloaded),) * LAYERS
    return Policy(layers=layers, reason=f"{saving}{' on the host' if offloaded else ''}.")


LADDER = [policy("all"), policy("attention"), policy("outputs"), policy("outputs", offloaded=True),
          policy("input", offloaded=True)]  # fmt: skip


def replan(tokens, than):
    if than is None:
        return LADDER[0]
    place = LADDER.index(than) + 1
    return LADDER[place] if place < len(LADDER) else None


class RandomWeights:
    shape = SHAPE

    def names(self):
        return tensor_shapes(SHAPE)

    def read(self, name):
        size = tensor_shapes(SHAPE)[name]
        seed = list(tensor_shapes(SHAPE)).index(name)
        values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        return values * 0.03 if values.dim() == 2 else values * 0.1 + 1.0


class RandomRows:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        ids = np.random.default_rng(index).integers(0, VOCAB, TOKENS)
        labels = np.append((3 * ids[:-1] + 1) % VOCAB, IGNORE)
        return Row(input_ids=ids, labels=labels, starts=np.array([0, 700]))

    def order(self, epoch, seed):
        return np.random.default_rng((seed, epoch)).permutation(8)


def decoder():
    ops, _ = fastest_ops(torch.device("cuda"), torch.bfloat16, deterministic=True)
    return Decoder(RandomWeights(), lora=LORA, dtype=torch.bfloat16, device="cuda", ops=ops)


def go(model, folder, **changes):
    events = []
    options = {
        "batch_size": 4, "gradient_accumulation_steps": 2, "rows_per_pass": 4, "steps": 6,
        "learning_rate": 1e-3, "policy": LADDER[0], "replan": replan, "emit": events.append,
        **changes,
    }  # fmt: skip
    train(model, RandomRows(), **settings(folder, **options))
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    return losses, [event for event in events if isinstance(event, Healed)]


@pytest.fixture
def uncapped(tmp_path):
    """The losses without a cap, the memory before and the most that was taken."""
    model = decoder()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    losses, healed = go(model, tmp_path / "uncapped")
    peak = torch.cuda.max_memory_reserved()
    assert healed == []
    del model
    torch.cuda.empty_cache()
    return losses, before, peak


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.15])
def test_under_a_cap_the_run_heals_and_its_losses_are_the_same(share, uncapped, tmp_path):
    expected, before, peak = uncapped
    total = torch.cuda.get_device_properties(0).total_memory
    model = decoder()
    torch.cuda.set_per_process_memory_fraction((before + share * (peak - before)) / total)
    try:
        losses, healed = go(model, tmp_path / "capped")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert healed
    assert {event.step for event in healed} == {1}
    # bf16, and sums in another order
    assert losses == pytest.approx(expected, rel=2e-3)


@pytest.fixture
def deterministic():
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    with deterministic_gpu(True):
        yield


def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one(deterministic, tmp_path):
    expected, _ = go(decoder(), tmp_path / "straight")
    model, events = decoder(), []

    def stop_at_three():
        return any(isinstance(event, StepDone) and event.step == 3 for event in events)

    go(model, tmp_path / "stopped", emit=events.append, should_stop=stop_at_three)
    again = decoder()
    path = latest(tmp_path / "stopped", print)
    start = load(path, like=again.lora_state(), fingerprint="tiny")
    rest, _ = go(again, tmp_path / "stopped", resume_from=start)
    assert rest == pytest.approx(expected[3:], abs=1e-6)
