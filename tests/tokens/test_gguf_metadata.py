"""What a GGUF file says of a tokenizer: read again it is the same; llama.cpp reads it in
``tests/export/test_proof.py``."""

import json

import pytest

from repotune.errors import ExportError
from repotune.gguf_file import open_gguf, write_gguf
from repotune.model.starter import starter_path
from repotune.tokens import gguf_metadata, load_tokenizer, token_names

from .vocabularies import CODELLAMA_FIM, LLAMA, random_text, sample_code

SIZES = {"codellama": 32016, "qwen": 640, "starcoder": 620, "deepseek": 620}


def again(values, path):
    write_gguf(path, architecture="llama", metadata=values, tensors={}, data=())
    return load_tokenizer(path)


@pytest.mark.parametrize("family", SIZES)
def test_our_reader_makes_the_same_tokenizer_of_it(family, folders, families, tmp_path):
    ours, values = families[family], gguf_metadata(folders[family], SIZES[family])
    assert len(values["tokenizer.ggml.tokens"]) == SIZES[family]
    read = again(values, tmp_path / "vocabulary.gguf")
    assert (read.bos_id, read.eos_id, read.fim) == (ours.bos_id, ours.eos_id, ours.fim)
    assert read.stop_ids == ours.stop_ids
    continuation = family == "codellama"  # which has no space put before a text in this file
    for text in (*sample_code(), random_text(3)):
        expected = ours.encode_continuation(text) if continuation else ours.encode(text)
        assert read.encode(text).tolist() == expected.tolist()


def test_the_ids_for_a_gap_stand_under_both_names(folders):
    values = gguf_metadata(folders["codellama"], 32016)
    prefix, suffix, middle, end = CODELLAMA_FIM.values()
    said = {key.split(".")[2]: value for key, value in values.items() if key.endswith("_token_id")}
    assert said == {
        "bos_token_id": 1, "eos_token_id": 2, "eot_token_id": end,
        "fim_pre_token_id": prefix, "fim_suf_token_id": suffix, "fim_mid_token_id": middle,
        "prefix_token_id": prefix, "suffix_token_id": suffix, "middle_token_id": middle,
    }  # fmt: skip
    types = values["tokenizer.ggml.token_type"]
    assert {types[number] for number in (prefix, suffix, middle, end)} == {3}
    assert values["tokenizer.ggml.add_space_prefix"] is False
    deepseek = gguf_metadata(folders["deepseek"], 620)
    assert deepseek["tokenizer.ggml.eot_token_id"] == deepseek["tokenizer.ggml.eos_token_id"]


def test_each_kind_of_token_has_its_type(folders, tmp_path):
    values = gguf_metadata(folders["codellama"], 32016)
    types, tokens = values["tokenizer.ggml.token_type"], values["tokenizer.ggml.tokens"]
    assert [types[tokens.index(token)] for token in ("<unk>", "<s>", "<0x0A>", "▁return")] == [
        2, 3, 6, 1,
    ]  # fmt: skip
    assert (tokens[32015], types[32015]) == ("[PAD32015]", 5)
    content = json.loads((folders["qwen"] / "tokenizer.json").read_text("utf-8"))
    number = max(one["id"] for one in content["added_tokens"]) + 1
    shown = {**content["added_tokens"][0], "id": number, "content": "<tool_call>", "special": False}
    content["added_tokens"].append(shown)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    settings = (folders["qwen"] / "tokenizer_config.json").read_bytes()
    (tmp_path / "tokenizer_config.json").write_bytes(settings)
    types = gguf_metadata(tmp_path, 640)["tokenizer.ggml.token_type"]
    assert types[number] == 4


def test_scores_that_are_made_of_merges_order_pieces_as_the_real_ones(folders):
    real = open_gguf(LLAMA).metadata["tokenizer.ggml.scores"]
    made = gguf_metadata(folders["codellama"], 32016)["tokenizer.ggml.scores"]
    ordinary = range(259, 29871)  # bytes lie before, single characters behind
    # Runs of spaces share one score in the real file: the tokenizer's merges tell them apart.
    pieces = [n for n in ordinary if made[n] > min(made) and real[n] > min(real)]
    assert len(pieces) > 29_000
    assert sorted(pieces, key=lambda n: -made[n]) == sorted(pieces, key=lambda n: -real[n])


def test_a_gguf_files_own_keys_are_taken_over():
    own = open_gguf(starter_path()).metadata
    expected = {key: value for key, value in own.items() if key.startswith("tokenizer.")}
    assert gguf_metadata(starter_path(), 49152) == expected
    assert token_names(starter_path())[0] == "<|endoftext|>"


def test_a_way_to_split_that_has_no_name_is_refused(folders, tmp_path):
    content = json.loads((folders["starcoder"] / "tokenizer.json").read_text("utf-8"))
    content["pre_tokenizer"]["pretokenizers"].pop(0)
    content["pre_tokenizer"]["pretokenizers"].append({"type": "Punctuation"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    settings = (folders["starcoder"] / "tokenizer_config.json").read_bytes()
    (tmp_path / "tokenizer_config.json").write_bytes(settings)
    with pytest.raises(ExportError, match=r"no name for here .*qwen2.*export to merged"):
        gguf_metadata(tmp_path, 620)
