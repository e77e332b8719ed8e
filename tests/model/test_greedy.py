"""What lets a step be recorded, on a CPU; recorded steps themselves are in ``test_on_gpu``."""

import numpy as np
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from repotune.model import Decoder, open_weights, resolve_model
from repotune.model.greedy import Greedy
from repotune.records import LINEAR_MODULES, LoraSpec

VOCAB = 97


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = transformers.MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=9,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.MistralForCausalLM(config).save_pretrained(folder)
    ref = resolve_model(str(folder), revision=None, offline=True, cache=None, emit=print)
    lora = LoraSpec(r=2, alpha=4.0, dropout=0.0, target_modules=LINEAR_MODULES)
    return Decoder(open_weights(ref), lora=lora, dtype=torch.float32)


class Launches(TorchDispatchMode):
    """Every operation with its numbers, and of its tensors what a launch depends on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.seen.append((str(func), tree_map(self.described, (args, kwargs))))
        return func(*args, **kwargs)

    def described(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        return tuple(value.shape), value.stride(), value.storage_offset()


def begun(decoder, lengths, *, slots=16, capacity=512):
    cache = decoder.new_cache(slots, capacity, padded=True)
    greedy = Greedy(decoder, cache, adapted=True, recorded=False)
    generator = np.random.default_rng(0)
    last = greedy.begin([generator.integers(0, VOCAB, length) for length in lengths])
    return greedy, cache, last


def launches_of_a_step(greedy, last):
    """Of the step itself, without what the host sends before and reads after it."""
    with Launches() as launches:
        greedy.go_on(last, 1)
    names = [name for name, _ in launches.seen]
    start = names.index("aten.arange.default")
    return launches.seen[start : names.index("aten.argmax.out") + 1]


def test_steps_of_one_size_are_the_same_launches_whatever_the_lengths(decoder):
    greedy, _, last = begun(decoder, (40, 7, 3, 1, 90))
    launches_of_a_step(greedy, last)  # takes memory, which later steps have
    one = launches_of_a_step(greedy, last)
    greedy, _, last = begun(decoder, (120, 2, 1, 1, 1, 1, 60))
    launches_of_a_step(greedy, last)
    other = launches_of_a_step(greedy, last)
    assert one == other
    assert len(one) > 100


def test_a_step_waits_for_nothing_and_sends_nothing(decoder):
    greedy, _, last = begun(decoder, (40, 7))
    names = {name for name, _ in launches_of_a_step(greedy, last)}
    waits = ("_local_scalar_dense", "nonzero", "lift_fresh", "equal", "unique", "masked_select")
    assert not [name for name in names if name.split(".")[1] in waits]


@pytest.mark.parametrize(
    ("lengths", "rows", "keys"),
    [
        ((1,), 1, 128), ((127,), 1, 128), ((128,), 1, 256), ((5, 5), 8, 128),
        ((5,) * 9, 12, 128), ((5,) * 12, 12, 128), ((300, 1, 1), 8, 400),
    ],
)  # fmt: skip
def test_steps_come_in_few_sizes_that_hold_all_of_them(lengths, rows, keys, decoder):
    _, cache, _ = begun(decoder, lengths, slots=12, capacity=400)
    assert cache.grow() == ((slice(0, rows), keys),)
    assert cache.lengths == [length + 1 for length in lengths]
