"""What is read from a model's folder, and what is said when it is not as it should be."""

import json
import shutil

import pytest

from repotune.errors import TokenizerError
from repotune.tokens import load_tokenizer

from .vocabularies import write_json


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of the Qwen-like tokenizer, to be damaged."""
    return shutil.copytree(folders["qwen"], tmp_path / "model")


def edit(folder, change):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_json(path, content)


def test_a_folder_without_tokenizer_json(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json: download"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": "1.0"}', '{"model": {"type": "BPE", "vocab": 3}}']
)
def test_a_damaged_file(folder, content):
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json .*damaged"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(type="Unigram"), "not a plain BPE"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), r"changes text .*\(Lowercase\)"),
        (lambda c: c.update(pre_tokenizer=None), "neither byte-level"),
        (lambda c: c["model"].update(vocab={}, merges=[]), "empty"),
        (lambda c: c["model"]["vocab"].update(a=10**12), "impossible ids"),
        (lambda c: c["added_tokens"][0].update(id=-1), "impossible ids"),
        (lambda c: c["model"]["vocab"].pop("Ċ"), "does not give text back"),
        (lambda c: c["model"].update(merges=["a b c"]), "damaged"),
    ],
)
def test_a_tokenizer_that_cannot_be_used(folder, change, message):
    edit(folder, change)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(folder)


def test_merges_may_be_pairs_or_texts(folder, families):
    def other_way(content):
        merges = content["model"]["merges"]
        content["model"]["merges"] = [
            merge.split(" ") if isinstance(merge, str) else " ".join(merge) for merge in merges
        ]

    edit(folder, other_way)
    assert load_tokenizer(folder).fingerprint == families["qwen"].fingerprint


def test_the_end_of_a_text_has_to_be_named(folder):
    write_json(folder / "tokenizer_config.json", {})
    with pytest.raises(TokenizerError, match="add eos_token"):
        load_tokenizer(folder)
    write_json(folder / "config.json", {"eos_token_id": [602, 600]})
    assert load_tokenizer(folder).eos_id == 602


def test_a_plain_piece_that_ends_a_text_is_special_too(folder, families):
    ids = families["qwen"].encode("return").tolist()
    piece = next(number for number in ids if len(families["qwen"].decode([number])) > 1)
    write_json(folder / "tokenizer_config.json", {})
    write_json(folder / "config.json", {"eos_token_id": piece})
    tokenizer = load_tokenizer(folder)
    assert piece in tokenizer.special_ids
    assert piece not in tokenizer.encode("return").tolist()
    assert tokenizer.decode(tokenizer.encode("return")) == "return"


def test_bos_as_the_settings_say_then_the_template(folder):
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    assert load_tokenizer(folder).bos_id is None
    first = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [first]}
    edit(folder, lambda c: c.update(post_processor={"type": "Sequence", "processors": [template]}))
    assert load_tokenizer(folder).bos_id == 601
    write_json(
        folder / "tokenizer_config.json", {"eos_token": "<|endoftext|>", "add_bos_token": False}
    )
    assert load_tokenizer(folder).bos_id is None


def test_tokens_that_the_model_has_no_embedding_for_do_not_exist(folders, tmp_path):
    folder = shutil.copytree(folders["codellama"], tmp_path / "34b")
    write_json(folder / "config.json", {"vocab_size": 32_000})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.fim, tokenizer.vocab_size) == (None, 32_000)


def test_llama_in_the_newer_way_is_the_same(folders, codellama, tmp_path):
    folder = shutil.copytree(folders["codellama"], tmp_path / "metaspace")
    metaspace = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
    }  # fmt: skip
    edit(folder, lambda c: c.update(normalizer=None, pre_tokenizer=metaspace))
    tokenizer = load_tokenizer(folder)
    for text in ("x", " x", "  x\n y", "한글 🙂"):
        assert tokenizer.encode(text).tolist() == codellama.encode(text).tolist()
        assert tokenizer.decode(tokenizer.encode(text)) == text
