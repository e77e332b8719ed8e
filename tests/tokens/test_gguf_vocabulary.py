"""What is read from a GGUF file, and what is said when its tokenizer cannot be used."""

import json

import gguf
import pytest

from repotune.errors import ModelError, TokenizerError
from repotune.tokens import load_tokenizer

from .vocabularies import sample_code

KINDS = {"qwen": "qwen2", "starcoder": "starcoder", "deepseek": "deepseek-coder"}


@pytest.fixture
def write(folders, tmp_path):
    """Writes the vocabulary of a family as llama.cpp's converter does, with changes."""

    def write_family(family, **changes):
        content = json.loads((folders[family] / "tokenizer.json").read_text(encoding="utf-8"))
        added = {one["content"]: one["id"] for one in content["added_tokens"]}
        ids = {**content["model"]["vocab"], **added}
        tokens = sorted(ids, key=ids.__getitem__)
        values = {
            "model": "gpt2",
            "pre": KINDS[family],
            "tokens": tokens,
            "token_type": [3 if token in added else 1 for token in tokens],
            "merges": [" ".join(merge) for merge in content["model"]["merges"]],
            "eos_token_id": ids[
                "<｜end▁of▁sentence｜>" if family == "deepseek" else "<|endoftext|>"
            ],
            **changes,
        }
        path = tmp_path / f"{family}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in values.items():
            name = f"tokenizer.ggml.{key}"
            if isinstance(value, list):
                writer.add_array(name, value)
            elif isinstance(value, bool):
                writer.add_bool(name, value)
            elif isinstance(value, int):
                writer.add_uint32(name, value)
            elif value is not None:
                writer.add_string(name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    return write_family


@pytest.mark.parametrize("family", list(KINDS))
def test_a_gguf_file_encodes_as_the_tokenizer_json_it_was_made_from(family, write, families):
    tokenizer = load_tokenizer(write(family))
    assert tokenizer.fim == families[family].fim
    assert tokenizer.vocab_size == families[family].vocab_size
    for text in (*sample_code(), "a 12\t345\n\n  é한글 'll don't\r\n"):
        assert tokenizer.encode(text).tolist() == families[family].encode(text).tolist()


@pytest.mark.parametrize("pre", ["gpt-2", "default", "llama-bpe", None])
def test_other_ways_of_splitting_give_text_back(pre, write):
    tokenizer = load_tokenizer(write("qwen", pre=pre))
    for text in sample_code():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_fill_in_the_middle_is_found_by_name_whatever_its_type(write, families):
    types = [1] * families["qwen"].vocab_size
    tokenizer = load_tokenizer(write("qwen", token_type=types))
    assert tokenizer.fim == families["qwen"].fim
    assert not set(tokenizer.encode("<|fim_prefix|>").tolist()) & tokenizer.fim.ids


def test_bos_only_where_the_file_asks_for_it(write):
    assert load_tokenizer(write("deepseek", bos_token_id=600)).bos_id is None
    with_bos = load_tokenizer(write("deepseek", bos_token_id=600, add_bos_token=True))
    assert with_bos.bos_id == 600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "of the kind 'bert', and only"),
        ({"pre": "tekken"}, "in the way 'tekken', which is not known"),
        ({"merges": None}, r"has no tokenizer\.ggml\.merges"),
        ({"token_type": [1, 1]}, "has 2 tokenizer.ggml.token_type, and 6.. are needed"),
        ({"eos_token_id": 100_000}, "names 100000 as its eos token"),
        ({"eos_token_id": None}, "names None as its eos token"),
    ],
)
def test_a_tokenizer_that_cannot_be_used(changes, message, write):
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(write("qwen", **changes))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ModelError, match=r"missing\.gguf"):
        load_tokenizer(tmp_path / "missing.gguf")
