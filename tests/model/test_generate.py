import numpy as np
import pytest
import torch
import transformers

from repotune.model import Decoder, generate, open_weights, resolve_model
from repotune.records import LINEAR_MODULES, LoraSpec


@pytest.fixture(scope="module", params=["Llama", "Mistral"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    options = {"sliding_window": 6} if request.param == "Mistral" else {}
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, **options,
    )  # fmt: skip
    torch.manual_seed(1)
    model = getattr(transformers, f"{request.param}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    model.save_pretrained(folder)
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)
    lora = LoraSpec(r=2, alpha=4.0, dropout=0.0, target_modules=LINEAR_MODULES)
    return model, Decoder(open_weights(ref), lora=lora, dtype=torch.float32)


def test_greedy_generation_equals_transformers(pair):
    model, decoder = pair
    prompt = np.random.default_rng(0).integers(0, 97, 11)
    expected = model.generate(
        torch.tensor(prompt)[None], max_new_tokens=24, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )[0, 11:].tolist()  # fmt: skip
    got = generate(decoder, prompt, max_new_tokens=24, stop=lambda ids: False, adapted=True)
    assert got == expected


def test_generation_stops_when_told_and_keeps_the_last_token(pair):
    _, decoder = pair
    prompt = np.array([1, 2, 3])
    free = generate(decoder, prompt, max_new_tokens=9, stop=lambda ids: False, adapted=False)
    stopped = generate(
        decoder, prompt, max_new_tokens=9, stop=lambda ids: len(ids) == 4, adapted=False
    )
    assert len(free) == 9
    assert stopped == free[:4]
