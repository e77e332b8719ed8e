"""A model without tokens for fill in the middle is given four, in every form that it is read in."""

import json

import pytest
import tokenizers
import transformers

from repotune.errors import TokenizerError
from repotune.gguf_file import open_gguf
from repotune.model.starter import starter_path
from repotune.tokens import gguf_metadata, load_tokenizer, prompt_ids, token_names
from repotune.tokens.fim import ADDED, FimFormat
from repotune.tokens.hf_files import hf_files
from repotune.tokens.read import read_vocabulary

from .vocabularies import NASTY, sample_code

NAMES = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_end|>"]
FIRST = 49_152  # the starter's vocabulary


@pytest.fixture
def folder(tmp_path):
    """A tokenizer of bytes in Hugging Face layout, with one special token."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: number for number, character in enumerate(alphabet)}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens(["<|endoftext|>"])
    library.save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tmp_path


def test_the_four_stand_behind_the_vocabulary(taught, starter):
    ids = tuple(range(FIRST, FIRST + 4))
    assert starter.fim is None
    assert starter.added_ids == ()
    assert taught.added_ids == ids
    assert taught.vocab_size == starter.vocab_size + 4
    assert taught.fim == FimFormat(
        prefix_id=FIRST, suffix_id=FIRST + 1, middle_id=FIRST + 2, end_id=FIRST + 3, spm="never",
        taught=True,
    )  # fmt: skip
    assert FIRST + 3 in taught.stop_ids
    assert prompt_ids(taught, "a", "b").tolist() == [
        FIRST + 1, *taught.encode("b"), FIRST, *taught.encode("a"), FIRST + 2,
    ]  # fmt: skip


def test_text_stays_what_it_was(taught, starter):
    for text in (*sample_code(), *NASTY, " ".join(NAMES)):
        ids = taught.encode(text)
        assert ids.tolist() == starter.encode(text).tolist()
        assert not set(taught.added_ids) & set(ids.tolist())


def test_a_model_that_has_its_own_keeps_them(folders):
    for family in folders.values():
        own = load_tokenizer(family)
        asked = load_tokenizer(family, add_fim=True)
        assert asked.added_ids == ()
        assert (asked.fim, asked.fingerprint) == (own.fim, own.fingerprint)


def test_rows_made_with_them_are_other_rows(taught, starter):
    assert taught.fingerprint != starter.fingerprint


def test_transformers_reads_them_behind_the_starters_vocabulary(tmp_path, taught):
    write(tmp_path, hf_files(starter_path(), add_fim=True))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert theirs.convert_tokens_to_ids(NAMES) == list(taught.added_ids)
    assert len(theirs) == FIRST + 4
    assert taught.fim is not None
    prompt = taught.fim.text(
        token_names(starter_path(), add_fim=True), "def f(x):\n", "    return x\n"
    )
    assert prompt == f"{NAMES[1]}    return x\n{NAMES[0]}def f(x):\n{NAMES[2]}"
    ours = prompt_ids(taught, "def f(x):\n", "    return x\n").tolist()
    assert theirs.encode(prompt, add_special_tokens=False) == ours


def test_transformers_reads_them_behind_a_folders_vocabulary(folder, tmp_path):
    (tmp_path / "out").mkdir()
    files = hf_files(folder, add_fim=True)
    write(tmp_path / "out", files)
    assert files["tokenizer_config.json"] == (folder / "tokenizer_config.json").read_bytes()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert theirs.convert_tokens_to_ids(NAMES) == [257, 258, 259, 260]
    assert theirs.encode(f"x{NAMES[3]}", add_special_tokens=False)[-1] == 260


def test_what_was_handed_over_is_known_again_as_taught(folder, tmp_path):
    """By their names alone, also where the vocabulary has Qwen's end of text."""
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", hf_files(folder, add_fim=True))
    again = load_tokenizer(tmp_path / "out")
    assert again.fim == load_tokenizer(folder, add_fim=True).fim
    assert again.added_ids == ()


def test_llama_cpp_is_told_of_them_and_of_rows_without_a_token(taught):
    metadata = gguf_metadata(starter_path(), FIRST + 8, add_fim=True)
    own = open_gguf(starter_path()).metadata
    tokens, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    assert tokens[:FIRST] == own["tokenizer.ggml.tokens"]
    assert tokens[FIRST:] == [*NAMES, *(f"[PAD{FIRST + 4 + place}]" for place in range(4))]
    assert types == [*own["tokenizer.ggml.token_type"], 3, 3, 3, 3, 5, 5, 5, 5]
    found = {
        key: metadata[f"tokenizer.ggml.{key}_token_id"]
        for key in ("fim_pre", "fim_suf", "fim_mid", "eot", "eos")
    }
    assert found == {
        "fim_pre": FIRST, "fim_suf": FIRST + 1, "fim_mid": FIRST + 2, "eot": FIRST + 3, "eos": 2,
    }  # fmt: skip


def test_a_folders_tokens_are_told_to_llama_cpp_too(folder):
    metadata = gguf_metadata(folder, 264, add_fim=True)
    assert metadata["tokenizer.ggml.tokens"][257:] == [*NAMES, "[PAD261]", "[PAD262]", "[PAD263]"]
    assert metadata["tokenizer.ggml.token_type"][256:] == [3, 3, 3, 3, 3, 5, 5, 5]
    assert metadata["tokenizer.ggml.fim_mid_token_id"] == 259


def test_their_names_are_known(taught):
    names = token_names(starter_path(), add_fim=True)
    assert [names[number] for number in taught.added_ids] == NAMES == ADDED.names


def test_a_vocabulary_that_has_only_some_of_them_is_refused(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 257, "content": NAMES[1]})
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_vocabulary(folder, add_fim=False).added == ()
    with pytest.raises(TokenizerError, match=r'fim_suffix.*set fim_tokens to "model"'):
        read_vocabulary(folder, add_fim=True)


def write(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
