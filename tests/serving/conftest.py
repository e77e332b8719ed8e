from pathlib import Path

import pytest

from repotune.tokens import load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path):
    return load_tokenizer(tiny_model)
