"""A prompt is the beginning of what was trained."""

import pytest

from repotune.tokens import prompt_ids

from .test_fim import MIDDLE_IDS, PREFIX, PREFIX_IDS, SUFFIX, SUFFIX_IDS


def test_codellama_is_asked_in_the_order_of_training(codellama):
    ids = prompt_ids(codellama, PREFIX, SUFFIX + "y").tolist()
    assert ids == [1, 32007, *PREFIX_IDS, 32008, *SUFFIX_IDS, 29891, 32009]
    trained = codellama.fim.psm([1], PREFIX_IDS, [*SUFFIX_IDS, 29891], MIDDLE_IDS)
    assert trained[: len(ids)] == ids


@pytest.mark.parametrize("suffix", [None, "", " \n\t"])
def test_left_to_right_without_a_suffix(suffix, codellama):
    assert prompt_ids(codellama, PREFIX, suffix).tolist() == [1, *PREFIX_IDS]


def test_left_to_right_without_fill_in_the_middle(starter, llama):
    assert prompt_ids(starter, "x =", "y").tolist() == starter.encode("x =").tolist()
    assert prompt_ids(llama, PREFIX, "y").tolist() == [1, *PREFIX_IDS]


def test_an_empty_prefix(codellama, starter):
    assert prompt_ids(codellama, "", "y").tolist() == [1, 32007, 32008, 29891, 32009]
    assert prompt_ids(starter, "", None).tolist() == []
