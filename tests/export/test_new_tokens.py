"""An adapter with rows of new tokens in the hands of peft, transformers and llama.cpp."""

import json

import peft
import pytest
import torch
import transformers

from repotune.errors import RunError
from repotune.export import MergedWeights, adapter_shapes, load_adapter, read_adapter
from repotune.model import Decoder, open_weights
from repotune.records import LINEAR_MODULES, LoraSpec

from .tiny import relative, save_adapter, write_model

VOCAB, GROWN, NEW = 265, 272, (265, 266, 267, 268)
TOLERANCE = 1e-5  # relative L2 in fp32: the bound the project promises
LORA = LoraSpec(
    r=4, alpha=8.0, dropout=0.0, target_modules=LINEAR_MODULES, trainable_token_indices=NEW
)
IDS = torch.tensor([5, 265, 80, 81, 266, 90, 267, 12, 268])
FAMILIES = pytest.mark.parametrize("family", ["llama (GQA)", "qwen2 (tied)"])


@pytest.fixture
def made(family, tmp_path):
    """A base, our decoder with an adapter that does something, and the adapter's folder."""
    base = write_model(tmp_path / "base", family, vocab_size=VOCAB)
    source = open_weights(base, vocab_size=GROWN)
    decoder = Decoder(source, lora=LORA, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    for tensor in decoder.lora_state().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    decoder.refresh()
    return base, source, decoder, save_adapter(tmp_path / "adapter", decoder, base)


def in_peft(base, adapter):
    """As the model card says: resized to the rows that it names, then loaded."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base.path)
    model.resize_token_embeddings(GROWN)
    return peft.PeftModel.from_pretrained(model, adapter).eval()


@FAMILIES
def test_peft_loads_it_and_gives_the_same_logits(made):
    base, _, decoder, adapter = made
    with torch.no_grad():
        logits = in_peft(base, adapter)(input_ids=IDS[None]).logits[0]
    used = NEW[-1] + 1
    assert relative(decoder.logits(IDS.numpy())[:, :used], logits[:, :used]) < TOLERANCE
    # Rows that no token has: transformers draws them closely around the mean, which ours are.
    assert relative(decoder.logits(IDS.numpy()), logits) < 1e-3


@FAMILIES
def test_it_says_what_peft_would_have_said(made, family):
    said = json.loads((made[3] / "adapter_config.json").read_text(encoding="utf-8"))
    tables = ["embed_tokens"] if "tied" in family else ["embed_tokens", "lm_head"]
    assert said["trainable_token_indices"] == {table: list(NEW) for table in tables}
    config = peft.LoraConfig.from_pretrained(made[3])
    assert config.trainable_token_indices == said["trainable_token_indices"]


@FAMILIES
def test_merged_it_is_what_peft_merges(made):
    base, source, decoder, adapter = made
    expected = in_peft(base, adapter).merge_and_unload().state_dict()
    merged = MergedWeights(source, decoder.lora_state(), lora=LORA)
    for name in merged.names():
        weight, theirs = merged.read(name), expected[name]
        if len(weight) == GROWN:
            assert torch.equal(weight[: NEW[-1] + 1], theirs[: NEW[-1] + 1]), name
        else:
            assert relative(weight, theirs) < 1e-6, name


@FAMILIES
def test_what_is_exported_is_loaded(made):
    _, source, decoder, adapter = made
    assert adapter_shapes(source.shape, LORA) == {
        name: tuple(tensor.shape) for name, tensor in decoder.lora_state().items()
    }
    fresh = Decoder(source, lora=LORA, dtype=torch.float32, seed=7)
    load_adapter(adapter, fresh.lora_state(), lora=LORA)
    fresh.refresh()
    assert torch.equal(fresh.logits(IDS.numpy()), decoder.logits(IDS.numpy()))


@pytest.mark.parametrize("family", ["llama (GQA)"])
def test_an_adapter_of_other_tokens_is_refused(made):
    adapter = made[3]
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["trainable_token_indices"] = {"embed_tokens": [1, 2, 3, 4], "lm_head": [1, 2, 3, 4]}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RunError, match="trainable_token_indices"):
        read_adapter(adapter, adapter_shapes(made[1].shape, LORA), lora=LORA)
