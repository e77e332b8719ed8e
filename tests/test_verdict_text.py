"""Both languages say the same figures, for every ruling and whatever else got worse."""

import re
from dataclasses import replace
from typing import get_args

import pytest

from repotune.evaluation.verdict import LINE_FIGURES, judge
from repotune.records import Interval, Ruling
from repotune.verdict_text import headline, reason

from .report.runs import EVALUATION, compared

LESS = Interval(value=-0.4, low=-0.5, high=-0.1)
LIBRARY = EVALUATION.forgetting.library
FORGETTING = replace(
    EVALUATION.forgetting,
    library=replace(LIBRARY, tuned_bits_per_byte=1.5),
    tasks=(replace(EVALUATION.forgetting.tasks[0], lost=12, won=2, p_value=0.013),),
)
WORSE_IN_PYTHON = replace(
    EVALUATION.groups[0], tuned_bits_per_byte=1.5, difference=Interval(value=0.2, low=0.1, high=0.3)
)
EACH = (
    {"forgetting": None, "memorisation": None},
    {"files": 3},
    {"difference": Interval(value=0.2, low=0.1, high=0.3)},
    {"difference": Interval(value=0.0, low=-0.1, high=0.1)},
    {"line_differences": dict.fromkeys(("exact_match", "edit_similarity", "name_recall"), LESS)},
    {"infill": {
        name.removeprefix("infill_"): compared(0.9, 0.5, LESS)
        for name in LINE_FIGURES if name.startswith("infill_")
    }},
    {"forgetting": FORGETTING},
    {"infill": {"stop_rate": compared(0.9, 0.5, LESS)}},
)  # fmt: skip


@pytest.mark.parametrize("also", [{}, {"forgetting": FORGETTING, "groups": (WORSE_IN_PYTHON,)}])
@pytest.mark.parametrize("changes", EACH)
def test_korean_has_the_figures_of_the_english(changes, also):
    evaluation = replace(EVALUATION, **{**also, **changes})
    judgement = judge(evaluation)
    english, korean = (reason(evaluation, judgement, lang) for lang in ("en", "ko"))
    figures = re.compile(r"[-+]?\d+(?:\.\d+)?")
    numbers = [sorted(figures.findall(text)) for text in (english.replace("zero", "0"), korean)]
    assert numbers[0] == numbers[1]
    assert "{" not in english + korean
    assert not re.search(r"[가-힣]", english)
    assert headline(judgement, "en") != headline(judgement, "ko")
    assert judgement.sentence == f"{headline(judgement, 'en')}. {english}"


def test_every_ruling_is_among_them():
    assert {judge(replace(EVALUATION, **each)).ruling for each in EACH} == set(get_args(Ruling))


def said(evaluation):
    return [reason(evaluation, judge(evaluation), lang) for lang in ("en", "ko")]


def test_more_is_to_be_read_only_where_there_is_more():
    for all_of_them, advised in ((3, False), (9, True)):
        for words in said(replace(EVALUATION, files=3, files_available=all_of_them)):
            assert "heldout_share" in words
            assert ("--eval-max-tokens" in words) == advised


def test_a_taught_model_that_fills_in_worse_needs_more_gaps():
    english, korean = said(replace(EVALUATION, taught=True, **EACH[5]))
    assert "tens of thousands of gaps" in english
    assert "빈칸 수만 개" in korean
