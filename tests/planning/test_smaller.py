"""What to take instead of a model that does not fit."""

from dataclasses import replace

import pytest

from repotune.config import FineTuningConfig
from repotune.planning import fit, gpu_target, parameters, smaller_model
from repotune.tables import find_gpu, models

from .setups import SHAPE

GIB = 2**30


def smaller(gib):
    target = replace(gpu_target(find_gpu("RTX 3060").gpu), free_bytes=int(gib * GIB))
    found = smaller_model(SHAPE, target, FineTuningConfig())
    return target, found


@pytest.mark.parametrize("gib", [2, 3, 4.5, 6])
def test_it_is_the_largest_model_of_code_that_fits(gib):
    target, (model, config) = smaller(gib)
    assert model.code
    assert parameters(model.shape) < parameters(SHAPE)
    assert fit(model.shape, config, target).verdict == "fits"
    larger = [
        one
        for one in models()
        if one.code and parameters(model.shape) < parameters(one.shape) < parameters(SHAPE)
    ]
    for one in larger:
        other = smaller_model(replace(one.shape, num_hidden_layers=one.shape.num_hidden_layers + 1),
                              target, FineTuningConfig())  # fmt: skip
        assert other is not None
        assert other[0].name == model.name


def test_general_text_is_taken_where_no_model_of_code_fits():
    _, (model, _) = smaller(0.75)
    assert not model.code
    assert model.name in ("starter", "HuggingFaceTB/SmolLM2-360M")


def test_where_nothing_fits_there_is_none():
    assert smaller(0.05)[1] is None
