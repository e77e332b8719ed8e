"""Tokenizers are loaded once."""

import pytest

from repotune.model.starter import starter_path
from repotune.tokens import CodeTokenizer, load_tokenizer

from .vocabularies import BYTE_LEVEL_FAMILIES, LLAMA, write_byte_level, write_codellama


@pytest.fixture(scope="session")
def llama() -> CodeTokenizer:
    return load_tokenizer(LLAMA)


@pytest.fixture(scope="session")
def starter() -> CodeTokenizer:
    return load_tokenizer(starter_path())


@pytest.fixture(scope="session")
def taught() -> CodeTokenizer:
    return load_tokenizer(starter_path(), add_fim=True)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Family -> a folder in Hugging Face layout."""
    made = {"codellama": write_codellama(tmp_path_factory.mktemp("codellama"))}
    for family in BYTE_LEVEL_FAMILIES:
        made[family] = write_byte_level(tmp_path_factory.mktemp(family), family)
    return made


@pytest.fixture(scope="session")
def families(folders) -> dict[str, CodeTokenizer]:
    return {family: load_tokenizer(folder) for family, folder in folders.items()}


@pytest.fixture(scope="session")
def codellama(families) -> CodeTokenizer:
    return families["codellama"]
