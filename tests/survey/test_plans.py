"""What differs from plan to plan of the same code."""

from repotune import FineTuningConfig, survey
from repotune.planning import gpu_target
from repotune.tables import find_gpu

TARGET = gpu_target(find_gpu("RTX 4090").gpu)
CODE = survey.given_code(100, 2000)


def evaluation(model, **changes):
    subject = survey.find_subject(model)
    config = FineTuningConfig(max_seq_length=1024, batch_size=1, **changes)
    (made,) = survey.plans(
        TARGET, subject, config, CODE, rented=subject, price_per_kwh=0.2, across=None, notes=[]
    )
    return made.hours_by_stage["evaluation"].expected


def test_gaps_are_planned_for_models_that_fill_them():
    """Both have the same shape, but for the rows of the vocabulary."""
    lines_only = evaluation("codellama/CodeLlama-7b-Python-hf")
    both = evaluation("codellama/CodeLlama-7b-hf")
    assert both > 1.5 * lines_only
    taught = evaluation("codellama/CodeLlama-7b-Python-hf", fim_tokens="add")
    assert 0.95 < taught / both < 1.05
