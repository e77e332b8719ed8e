"""Models that plan without a network."""

import shutil

import pytest

from repotune import survey
from repotune.errors import ModelError
from repotune.tables import known_model


def test_a_model_is_found_in_the_table_or_its_folder(tiny_model):
    known = survey.find_subject("CODELLAMA/codellama-7b-hf")
    assert known.shape == known_model("codellama/CodeLlama-7b-hf").shape
    assert known.download_bytes == 13_477_093_376
    assert survey.find_subject("starter").download_bytes == 0
    local = survey.find_subject(str(tiny_model))
    assert (local.shape.hidden_size, local.download_bytes) == (64, 0)
    with pytest.raises(ModelError, match="perhaps Qwen/Qwen2"):
        survey.find_subject("Qwen/Qwen2.5-Code-7B")


def test_whether_it_fills_in_is_known_by_the_table_or_its_tokenizer(tiny_model, tmp_path):
    assert survey.find_subject("starter").fim is False
    assert survey.find_subject("codellama/CodeLlama-7b-hf").fim
    assert survey.find_subject("01-ai/Yi-Coder-1.5B").fim is None
    assert survey.find_subject(str(tiny_model)).fim
    shutil.copy(tiny_model / "config.json", tmp_path)
    assert survey.find_subject(str(tmp_path)).fim is None  # no tokenizer beside it
