"""The merged folder in transformers' hands."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import transformers

from repotune.errors import ExportError
from repotune.export import MergedWeights, merged_bytes, passage_ids, sixteen_bits, write_merged
from repotune.export.merged import _write_weights
from repotune.model import Decoder, open_weights
from repotune.model.resolve import resolve_model
from repotune.tokens import load_tokenizer

from .tiny import EOS, FAMILIES, SPEC, VOCAB, adapted, relative, write_model

TOLERANCE = 1e-5  # relative L2 in fp32: the bound the project promises


def write(base, decoder, folder, **options):
    folder.mkdir()
    merged = MergedWeights(open_weights(base), decoder.lora_state(), lora=decoder.lora)
    told = []
    write_merged(
        folder, merged, base, load_tokenizer(folder.parent / "base"),
        dtype=options.pop("dtype", torch.bfloat16), wrote=told.append, **options,
    )  # fmt: skip
    return merged, told


def local(folder):
    return resolve_model(str(folder), revision=None, offline=True, cache=None, emit=lambda e: None)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_gives_our_logits(family, tmp_path):
    base = write_model(tmp_path / "base", family, dtype=torch.bfloat16)
    decoder = adapted(base)
    merged, told = write(base, decoder, tmp_path / "out")
    assert sum(told) == merged_bytes(merged.shape)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.dtype == torch.bfloat16
    again = Decoder(open_weights(local(tmp_path / "out")), lora=SPEC, dtype=torch.float32)
    for ids in passage_ids(load_tokenizer(tmp_path / "base")):
        with torch.no_grad():
            logits = theirs.float()(input_ids=torch.tensor(ids)[None]).logits[0]
        # The same numbers are read by both: only the order of sums differs.
        assert relative(again.logits(ids, adapted=False), logits) < TOLERANCE
        # bf16 keeps 8 bits of a weight: 2**-9 at most, 0.1 % on average, which adds up over the
        # random matrices of two layers, where nothing is as redundant as in a trained model.
        assert relative(decoder.logits(ids), logits) < 0.02
        assert relative(decoder.logits(ids, adapted=False), logits) > 0.1  # the adapter is in it


def test_several_shards_and_their_index(tmp_path):
    base = write_model(tmp_path / "base")
    decoder = adapted(base)
    write(base, decoder, tmp_path / "whole")
    write(base, decoder, tmp_path / "parts", shard_bytes=60_000)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == [path.name for path in shards]
    assert len(shards) > 3
    assert all(path.stat().st_size < 70_000 for path in shards)
    read = {}
    for path in shards:
        tensors = safetensors.torch.load_file(path)
        assert all(index["weight_map"][name] == path.name for name in tensors)
        read |= tensors
    whole = safetensors.torch.load_file(tmp_path / "whole" / "model.safetensors")
    assert read.keys() == whole.keys()
    assert all(torch.equal(read[name], whole[name]) for name in whole)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "parts")
    assert sum(p.nbytes for p in theirs.parameters()) == index["metadata"]["total_size"]


def test_what_ends_a_completion_ends_it_in_transformers_too(tmp_path):
    base = write_model(tmp_path / "base")
    path = tmp_path / "base" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 7, "top_p": 0.9}))
    write(base, adapted(base), tmp_path / "out")
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert settings.eos_token_id == [7, EOS]
    assert settings.top_p == 0.9
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id == EOS
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == VOCAB


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.bfloat16),
    ],
)
def test_the_type_is_the_bases_own(stored, expected, tmp_path):
    base = write_model(tmp_path, dtype=stored)
    assert sixteen_bits(base, open_weights(base)) == expected


def test_a_weight_that_has_no_room_in_16_bits_is_refused(tmp_path):
    base = write_model(tmp_path / "base")
    decoder = adapted(base)
    decoder.lora_state()["model.layers.1.mlp.up_proj.lora_B.weight"].fill_(1e6)
    wild = replace(SPEC, alpha=4e4)
    merged = MergedWeights(open_weights(base), decoder.lora_state(), lora=wild)
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj.*float16.*learning_rate"):
        _write_weights(tmp_path, merged, torch.float16, lambda count: None, 10**9)
