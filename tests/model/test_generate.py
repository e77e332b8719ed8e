from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from repotune.model import Decoder, generate, generate_batch, open_weights, resolve_model
from repotune.model.cache import cache_bytes
from repotune.model.generate import ON_CPU, ON_GPU, cache_tokens, wide_layers
from repotune.records import LINEAR_MODULES, LoraSpec

VOCAB = 97
LIKE_A_GPU = replace(ON_GPU, recorded=False)
FAMILIES = {
    "Llama": {"num_key_value_heads": 4},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 6},
    "Qwen2": {"num_key_value_heads": 1},
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, **FAMILIES[request.param],
    )  # fmt: skip
    torch.manual_seed(1)
    model = getattr(transformers, f"{request.param}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    model.save_pretrained(folder)
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)
    lora = LoraSpec(r=2, alpha=4.0, dropout=0.0, target_modules=LINEAR_MODULES)
    return model, Decoder(open_weights(ref), lora=lora, dtype=torch.float32)


def prompts(*lengths):
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCAB, length) for length in lengths]


def never(_, new_ids):
    return False


def room_for(decoder, sequences, *, capacity):
    return sequences * cache_bytes(decoder.shape, capacity, decoder.dtype)


@pytest.mark.parametrize("pace", [ON_CPU, LIKE_A_GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("at_once", [1, 3, 11])
def test_each_prompt_goes_on_as_in_transformers_alone(pair, at_once, pace):
    model, decoder = pair
    asked = prompts(11, 1, 30, 4, 11, 2, 7, 19, 25, 3, 14)
    expected = [
        model.generate(
            torch.tensor(prompt)[None], attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in asked
    ]  # fmt: skip
    room = room_for(decoder, at_once, capacity=cache_tokens(30, 24, pace))
    got = generate_batch(
        decoder, asked, max_new_tokens=24, stop=never, adapted=True, max_cache_bytes=room,
        pace=pace,
    )  # fmt: skip
    assert got == expected


@pytest.mark.parametrize("pace", [ON_CPU, LIKE_A_GPU], ids=["cpu", "gpu"])
def test_who_stops_makes_room_and_leaves_the_others_alone(pair, pace):
    _, decoder = pair
    asked = prompts(5, 9, 3, 17, 8, 8, 2)
    lengths = [4, 1, 9, 2, 7, 9, 3]
    free = generate_batch(decoder, asked, max_new_tokens=9, stop=never, adapted=False)
    for at_once in (1, 2, 4, 7):
        stopped = generate_batch(
            decoder, asked, max_new_tokens=9, stop=lambda one, ids: len(ids) == lengths[one],
            adapted=False, pace=pace,
            max_cache_bytes=room_for(decoder, at_once, capacity=cache_tokens(17, 9, pace)),
        )  # fmt: skip
        assert stopped == [ids[:length] for ids, length in zip(free, lengths, strict=True)]


def test_the_adapter_is_used_when_asked_for(pair):
    _, decoder = pair
    asked = prompts(5, 12)
    base = generate_batch(decoder, asked, max_new_tokens=6, stop=never, adapted=False)
    saved = {name: one.clone() for name, one in decoder.lora_state().items()}
    generator = torch.Generator().manual_seed(3)
    for one in decoder.lora_state().values():
        one.copy_(torch.randn(one.shape, generator=generator))
    decoder.refresh()
    tuned = generate_batch(decoder, asked, max_new_tokens=6, stop=never, adapted=True)
    alone = [
        [int(decoder.logits(np.append(one, ids[:n])).argmax(-1)[-1]) for n in range(6)]
        for one, ids in zip(asked, tuned, strict=True)
    ]
    assert tuned == alone != base
    assert base == generate_batch(decoder, asked, max_new_tokens=6, stop=never, adapted=False)
    for name, one in decoder.lora_state().items():
        one.copy_(saved[name])
    decoder.refresh()


def test_nothing_asked_is_nothing_written(pair):
    _, decoder = pair
    assert generate_batch(decoder, [], max_new_tokens=3, stop=never, adapted=True) == []
    asked = prompts(3, 4)
    assert generate_batch(decoder, asked, max_new_tokens=0, stop=never, adapted=True) == [[], []]


def test_4_bit_weights_are_wide_where_there_is_room_and_write_the_same(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    ref = resolve_model(str(tmp_path), revision=None, offline=True, cache=None, emit=print)
    lora = LoraSpec(r=2, alpha=4.0, dropout=0.0, target_modules=LINEAR_MODULES)
    decoder = Decoder(open_weights(ref), lora=lora, dtype=torch.float32, use_4bit=True)
    for one in decoder.lora_state().values():
        one.fill_(0.05)
    decoder.refresh()
    asked = prompts(5, 12)
    narrow = generate_batch(decoder, asked, max_new_tokens=6, stop=never, adapted=True)
    logits = decoder.logits(asked[1])
    each = 4 * 7 * 64 * 64  # q, k, v, o, gate, up, down in fp32
    decoder.layers[1].expand(True)  # as a training may have it
    with wide_layers(decoder, 2 * each):
        assert torch.equal(decoder.logits(asked[1]), logits)
        again = generate_batch(decoder, asked, max_new_tokens=6, stop=never, adapted=True)
        assert again == narrow
        assert not any(layer.expand(True) for layer in decoder.layers[:2])
        assert decoder.layers[2].expand(True)
    assert [layer.expand(False) for layer in decoder.layers] == [False, True, True]


def test_weights_are_widened_by_what_the_cache_leaves_and_not_for_a_few_steps(pair, monkeypatch):
    _, decoder = pair
    free, rooms = [1_000_000], []
    new_cache = decoder.new_cache

    def take(slots, capacity, *, padded):
        free[0] -= 300_000
        return new_cache(slots, capacity, padded=padded)

    def widen(_, max_bytes):
        rooms.append(max_bytes)
        return nullcontext()

    monkeypatch.setattr(decoder, "new_cache", take)
    monkeypatch.setattr(generate, "_free_on_gpu", lambda device: free[0])
    monkeypatch.setattr(generate, "wide_layers", widen)
    asked = prompts(5, 12, 4)
    generate_batch(decoder, asked, max_new_tokens=24, stop=never, adapted=True)
    assert rooms == [350_000]
    generate_batch(decoder, asked[:1], max_new_tokens=8, stop=never, adapted=True)
    assert rooms[1:] == [0]
    # One after the other, their steps add up.
    generate_batch(decoder, asked, max_new_tokens=8, stop=never, adapted=True, max_cache_bytes=0)
    assert rooms[2:] == [50_000]
