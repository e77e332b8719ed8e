"""The tokenizer's files in transformers' hands."""

import pytest
import transformers

from repotune.model.starter import starter_path
from repotune.tokens import load_tokenizer
from repotune.tokens.hf_files import hf_files

from .vocabularies import LLAMA, sample_code


@pytest.mark.parametrize("path", [starter_path(), LLAMA], ids=["byte-level", "sentencepiece"])
def test_what_is_written_from_a_gguf_file_encodes_and_decodes_as_ours(path, tmp_path):
    for name, content in hf_files(path).items():
        (tmp_path / name).write_bytes(content)
    ours = load_tokenizer(path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    bos = [] if ours.bos_id is None else [ours.bos_id]
    for text in sample_code():  # in other texts transformers finds special tokens
        ids = ours.encode(text).tolist()
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.encode(text) == [*bos, *ids]
        assert theirs.decode(ids) == ours.decode(ids)
    assert load_tokenizer(tmp_path).fingerprint == ours.fingerprint


def test_a_folders_own_files_are_taken_as_they_are_and_code_is_not(folders, tmp_path):
    folder = folders["qwen"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenization_qwen.py").write_text("raise SystemExit")
    assert hf_files(tmp_path) == {
        name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")
    }
