"""The loop with the real decoder, on a small random Llama."""

import pytest
import torch
import transformers

from repotune.events import StepDone
from repotune.model import Decoder, open_weights
from repotune.records import LINEAR_MODULES, LayerPolicy, LoraSpec, ModelRef, Policy
from repotune.training import latest, load, train

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


def new_decoder(folder):
    ref = ModelRef(name="tiny", revision=None, path=str(folder), digest="")
    lora = LoraSpec(r=4, alpha=8.0, dropout=0.1, target_modules=LINEAR_MODULES)
    return Decoder(open_weights(ref), lora=lora, dtype=torch.bfloat16)


def run(decoder, checkpoints, **changes):
    events = []
    options = {"emit": events.append, "policy": POLICY, "dropout": True, "steps": 6, **changes}
    train(decoder, TinyRows(), **settings(checkpoints, **options))
    return [event.loss for event in events if isinstance(event, StepDone)]


def test_the_decoder_learns_and_a_resumed_run_is_bit_for_bit_the_same(folder, tmp_path):
    straight = new_decoder(folder)
    expected = run(straight, tmp_path / "a")
    assert expected[-1] < 0.8 * expected[0]

    stopped = new_decoder(folder)
    asked = iter([False] * 12 + [True] * 9)  # 5 questions a step: yes in the third
    losses = run(stopped, tmp_path / "b", should_stop=lambda: next(asked))
    assert len(losses) == 3
    resumed = new_decoder(folder)
    path = latest(tmp_path / "b", lambda event: None)
    start = load(path, like=resumed.lora_state(), fingerprint="tiny")
    losses += run(resumed, tmp_path / "b", resume_from=start)
    assert losses == expected
    for name, tensor in straight.lora_state().items():
        assert torch.equal(resumed.lora_state()[name], tensor)
