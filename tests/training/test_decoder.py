"""The loop with the real decoder, on a small random Llama."""

from itertools import chain, repeat

import pytest
import torch
import transformers

from repotune.events import StepDone
from repotune.model import Decoder, open_weights
from repotune.records import LINEAR_MODULES, LayerPolicy, LoraSpec, ModelRef, Policy
from repotune.training import LossScale, latest, load, train

from .tiny import VOCAB, TinyRows, settings

POLICY = Policy(layers=(LayerPolicy(saving="all"), LayerPolicy(saving="input")), reason="")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


# In fp16 from a scale at which the first steps overflow.
PRECISIONS = {torch.bfloat16: None, torch.float16: LossScale(value=2.0**40)}


@pytest.fixture(params=list(PRECISIONS), ids=str)
def dtype(request):
    return request.param


def new_decoder(folder, dtype):
    ref = ModelRef(name="tiny", revision=None, path=str(folder), digest="")
    lora = LoraSpec(r=4, alpha=8.0, dropout=0.1, target_modules=LINEAR_MODULES)
    return Decoder(open_weights(ref), lora=lora, dtype=dtype)


def run(decoder, checkpoints, **changes):
    events = []
    options = {
        "emit": events.append, "policy": POLICY, "dropout": True, "steps": 6,
        "loss_scale": PRECISIONS[decoder.dtype], **changes,
    }  # fmt: skip
    train(decoder, TinyRows(), **settings(checkpoints, **options))
    return [event.loss for event in events if isinstance(event, StepDone)]


def test_the_decoder_learns_and_a_resumed_run_is_bit_for_bit_the_same(folder, tmp_path, dtype):
    # In fp16 about twenty steps are skipped before the first that counts.
    more = {"steps": 6 if dtype == torch.bfloat16 else 40}
    straight = new_decoder(folder, dtype)
    expected = run(straight, tmp_path / "a", **more)
    assert expected[-1] < 0.8 * expected[0]

    stopped = new_decoder(folder, dtype)
    half = more["steps"] // 2
    # Asked before each layer, forward and back, after each of 4 passes and after the step: yes in
    # the middle of the step at the half, which is finished, being short.
    questions = 4 * (2 * len(stopped.layers) + 1) + 1
    asked = chain([False] * (questions * (half - 1) + 2), repeat(True))
    losses = run(stopped, tmp_path / "b", should_stop=lambda: next(asked), **more)
    assert len(losses) == half
    resumed = new_decoder(folder, dtype)
    path = latest(tmp_path / "b", lambda event: None)
    start = load(path, like=resumed.lora_state(), fingerprint="tiny")
    losses += run(resumed, tmp_path / "b", resume_from=start, **more)
    assert losses == expected
    for name, tensor in straight.lora_state().items():
        assert torch.equal(resumed.lora_state()[name], tensor)


def test_what_overflows_in_fp16_changes_no_weight_until_the_scale_has_fallen(folder, tmp_path):
    decoder, steps, weights = new_decoder(folder, torch.float16), [], []

    def listen(event):
        if isinstance(event, StepDone):
            steps.append(event)
            weights.append(decoder.lora_flat().clone())

    start = decoder.lora_flat().clone()
    run(decoder, tmp_path, emit=listen, steps=32)
    skipped = [event.grad_norm is None for event in steps]
    first = skipped.index(False)
    assert 10 < first < 28
    assert not any(skipped[first + 4 :])  # gradients grow a little while it learns
    assert all(torch.equal(one, start) for one in weights[:first])
    assert not torch.equal(weights[first], start)
    assert [event.loss_scale for event in steps[: first + 1]] == [
        2.0 ** (40 - n) for n in range(first + 1)
    ]
    # Only the scale is wrong in a skipped step: what is computed of the loss is the same.
    bf16 = new_decoder(folder, torch.bfloat16)
    (loss,) = run(bf16, tmp_path / "bf16", steps=1)
    assert steps[0].loss == pytest.approx(loss, rel=1e-2)
