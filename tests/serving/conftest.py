from pathlib import Path

import pytest

from repotune.tokens import load_tokenizer

from .stub import Stub, opened, running, served


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path):
    return load_tokenizer(tiny_model)


@pytest.fixture
def stub():
    with running(Stub()) as server:
        yield server


@pytest.fixture
def door(stub, tokenizer):
    with opened([served(stub, tokenizer)]) as it:
        yield it
