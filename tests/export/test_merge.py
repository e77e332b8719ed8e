"""Merged weights against those that peft merges."""

import peft
import pytest
import torch
import transformers

from repotune.export import MergedWeights, adapter_shapes
from repotune.model import open_weights
from repotune.records import LoraSpec

from .tiny import SPEC, adapted, relative, save_adapter, write_model

SOME = LoraSpec(r=2, alpha=3.0, dropout=0.0, target_modules=("v_proj", "down_proj"))


@pytest.mark.parametrize("lora", [SPEC, SOME], ids=["all seven", "two"])
@pytest.mark.parametrize("family", ["llama (GQA)", "qwen2 (tied)"])
def test_the_weights_are_those_that_peft_merges(family, lora, tmp_path):
    base = write_model(tmp_path / "base", family)
    decoder = adapted(base, lora=lora)
    save_adapter(tmp_path / "adapter", decoder, base)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base.path), tmp_path / "adapter"
    ).merge_and_unload()
    expected = theirs.state_dict()
    merged = MergedWeights(open_weights(base), decoder.lora_state(), lora=lora)
    assert set(merged.names()) == set(expected) - {"lm_head.weight"} | (
        set() if merged.shape.tie_word_embeddings else {"lm_head.weight"}
    )
    unmerged = open_weights(base)
    changed = 0
    for name in merged.names():
        # fp32 on both sides: only the order of a sum of r products may differ.
        assert relative(merged.read(name), expected[name]) < 1e-6, name
        changed += not torch.equal(merged.read(name), unmerged.read(name))
    assert changed == 2 * len(lora.target_modules)


def test_the_names_of_an_adapter_are_the_decoders(tmp_path):
    base = write_model(tmp_path, "llama (tied, bias)")
    for lora in (SPEC, SOME):
        decoder = adapted(base, lora=lora)
        assert adapter_shapes(decoder.shape, lora) == {
            name: tuple(tensor.shape) for name, tensor in decoder.lora_state().items()
        }
