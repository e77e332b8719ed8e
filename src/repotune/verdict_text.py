"""The verdict of an evaluation in words, English and Korean: what is so, by how much, what to do.

One place for the terminal, ``evaluation.json`` and the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

from repotune.records import Evaluation, Interval, Judgement, Ruling, TaskSet

Lang: TypeAlias = Literal["en", "ko"]
Pair: TypeAlias = tuple[str, str]
"""The same in English and in Korean."""

_Remedy: TypeAlias = Literal["lines", "gaps", "taught", "all_read", "some_read"]

_FIGURES: Final[dict[str, Pair]] = {
    "exact_match": ("exact next lines", "다음 줄 정확도"),
    "edit_similarity": ("edit similarity of next lines", "다음 줄 편집 유사도"),
    "name_recall": ("your own names recalled", "저장소 고유 이름 재현"),
    "infill_exact_match": ("gaps filled exactly", "빈칸 정확도"),
    "infill_edit_similarity": ("edit similarity of filled gaps", "빈칸 편집 유사도"),
    "infill_name_recall": ("your own names recalled in gaps", "빈칸의 고유 이름 재현"),
}
_HEADLINES: Final[dict[Ruling, Pair]] = {
    "better": ("Better: ship it", "좋아졌습니다. 쓰세요"),
    "no_gain": ("No gain: don't ship it", "나아진 것이 없습니다. 쓰지 마세요"),
    "worse": ("Worse: don't ship it", "나빠졌습니다. 쓰지 마세요"),
    "worse_lines": ("Mixed: don't ship it", "엇갈립니다. 쓰지 마세요"),
    "forgets": (
        "Better, but it forgets: don't ship it for more than this code",
        "좋아졌지만 잊은 것이 있습니다. 이 코드 밖에서는 쓰지 마세요",
    ),
    "too_few_files": ("Not known: don't ship it yet", "아직 모릅니다. 지금은 쓰지 마세요"),
}
_BECAUSE: Final[dict[Ruling, Pair]] = {
    "better": (
        "{size} bits per byte less ({share}), and the whole 95 % interval, {low} to {high}, is "
        "below zero.",
        "바이트당 {size}비트({share}) 줄었고, 95 % 구간 {low}에서 {high}까지가 모두 0보다 "
        "작습니다.",
    ),
    "no_gain": (
        "The difference is {value} bits per byte, and its 95 % interval, {low} to {high}, holds "
        "zero. Train longer, on more code, or evaluate on more of it.",
        "차이는 바이트당 {value}비트이고 95 % 구간 {low}에서 {high}까지가 0을 포함합니다. "
        "더 오래, 더 많은 코드로 학습하거나 더 많은 코드로 평가하세요.",
    ),
    "worse": (
        "{size} bits per byte more ({share}), 95 % interval {low} to {high}. The training went "
        "wrong or too far: try a lower learning_rate or fewer epochs.",
        "바이트당 {size}비트({share}) 늘었습니다. 95 % 구간은 {low}에서 {high}까지입니다. "
        "학습이 잘못되었거나 지나쳤으니 learning_rate를 낮추거나 에포크를 줄여 보세요.",
    ),
    "worse_lines": (
        "{size} bits per byte less ({share}), so code is predicted better, but what is written "
        "got surely worse: {lost}. {remedy}",
        "바이트당 {size}비트({share}) 줄어 예측은 좋아졌지만, 써내는 코드는 확실히 나빠졌습니다: "
        "{lost}. {remedy}",
    ),
    "forgets": (
        "{size} bits per byte less on this code ({share}), but: {forgets}. A lower learning_rate "
        "or fewer epochs forget less.",
        "이 코드에서는 바이트당 {size}비트({share}) 줄었지만 다음은 나빠졌습니다: {forgets}. "
        "learning_rate를 낮추거나 에포크를 줄이면 덜 잊습니다.",
    ),
    "too_few_files": (
        "Held-out files that were scored: {files}. At least 6 are needed to say anything sure "
        "about others: {remedy}",
        "평가에 쓴 파일은 {files}개입니다. 다른 파일에 대해 확실히 말하려면 적어도 6개가 "
        "필요합니다. {remedy}",
    ),
}
_REMEDIES: Final[dict[_Remedy, Pair]] = {
    "lines": (
        "Try a lower learning_rate or fewer epochs.",
        "learning_rate를 낮추거나 에포크를 줄여 보세요.",
    ),
    "gaps": (
        "Try a higher fim_rate, or fewer epochs.",
        "fim_rate를 높이거나 에포크를 줄여 보세요.",
    ),
    "taught": (
        "A model that never filled in takes tens of thousands of gaps to learn it: train on more "
        "code, or for more epochs.",
        "중간 채우기를 처음 배우는 모델에는 빈칸 수만 개가 필요하니, 더 많은 코드로 학습하거나 "
        "에포크를 늘리세요.",
    ),
    "all_read": ("raise heldout_share.", "heldout_share를 올리세요."),
    "some_read": (
        "raise heldout_share, or read more with --eval-max-tokens.",
        "heldout_share를 올리거나 --eval-max-tokens로 더 읽으세요.",
    ),
}
_ALSO: Final[dict[str, Pair]] = {
    "lost": (
        "What is written got surely worse, too: {lost}.",
        "써내는 코드도 확실히 나빠졌습니다: {lost}.",
    ),
    "forgets": (
        "It forgets, too: {forgets}; a lower learning_rate forgets less.",
        "잊은 것도 있습니다: {forgets}. learning_rate를 낮추면 덜 잊습니다.",
    ),
    "not_for": (
        "But use the base model for {languages}: there it is surely worse.",
        "다만 다음 언어에서는 확실히 나빠졌으니 원본 모델을 쓰세요: {languages}.",
    ),
    "worse_on": (
        "Surely worse than the base model in {languages}.",
        "다음 언어에서는 원본 모델보다 확실히 나쁩니다: {languages}.",
    ),
    "lines_not_sure": (
        "Whether it writes better lines is not sure from so few of them.",
        "더 나은 줄을 써내는지는 이만큼의 줄로는 확실하지 않습니다.",
    ),
    "stops_less": (
        "After filling in it stops by itself less often ({base} before, {tuned} now): keep your "
        "editor's limit on new tokens.",
        "빈칸을 채운 뒤 스스로 멈추는 비율이 {base}에서 {tuned}로 줄었으니, 편집기의 새 토큰 "
        "한도를 그대로 두세요.",
    ),
    "memorised": (
        "It has memorised: {extracted} of {planted} canaries are written out, and losses so low "
        "beside those of controls come by chance with p = {p}, so give it only to people who may "
        "read the code.",
        "학습 코드를 외웠습니다. 심어 둔 줄 {planted}개 중 {extracted}개를 그대로 써내고, "
        "대조군보다 이만큼 낮은 손실이 우연히 나올 확률은 {p}입니다. 코드를 볼 수 있는 사람에게만 "
        "주세요.",
    ),
}
_PARTS: Final[dict[str, Pair]] = {
    "figure": (
        "{name} {value} points (95 % interval {low} to {high})",
        "{name} {value}%p (95 % 구간 {low}~{high})",
    ),
    "library": (
        "Python's standard library takes {rise} more bits per byte",
        "파이썬 표준 라이브러리의 바이트당 비트가 {rise} 늘어남",
    ),
    "tasks": (
        "{name} fell from {base} to {tuned} of {count} solved (p = {p})",
        "{name} {count}개 중 통과가 {base}개에서 {tuned}개로 줄어듦 (p = {p})",
    ),
    "group": ("{name} ({rise} more bits per byte)", "{name} (바이트당 비트 {rise} 늘어남)"),
}
_TASK_SETS: Final[dict[TaskSet, Pair]] = {
    "human_eval": ("HumanEval", "HumanEval"),
    "infilling": ("HumanEval's infilling", "HumanEval 채우기"),
}


def task_set(name: TaskSet, lang: Lang = "en") -> str:
    """Its name, for people."""
    return _said(_TASK_SETS[name], lang)


def headline(judgement: Judgement, lang: Lang) -> str:
    """The ruling in a few words, without a full stop."""
    return _said(_HEADLINES[judgement.ruling], lang)


def reason(evaluation: Evaluation, judgement: Judgement, lang: Lang) -> str:
    """Why, by how much, what to do, and whatever else got worse; a few sentences."""
    difference = evaluation.difference
    because = _said(
        _BECAUSE[judgement.ruling], lang,
        size=f"{abs(difference.value):.4f}",
        share=f"{abs(_rise(evaluation.base_bits_per_byte, evaluation.tuned_bits_per_byte)):.1%}",
        value=f"{difference.value:+.4f}",
        low=f"{difference.low:+.4f}",
        high=f"{difference.high:+.4f}",
        files=evaluation.files,
        lost=_lost(evaluation, judgement, lang),
        forgets=_forgotten(evaluation, judgement, lang),
        remedy=_said(_REMEDIES[_remedy(evaluation, judgement)], lang),
    )  # fmt: skip
    return " ".join([because, *_also(evaluation, judgement, lang)])


def sentence(evaluation: Evaluation, judgement: Judgement) -> str:
    """Headline and reason, in English."""
    return f"{headline(judgement, 'en')}. {reason(evaluation, judgement, 'en')}"


def _also(evaluation: Evaluation, judgement: Judgement, lang: Lang) -> Iterator[str]:
    """What the ruling itself does not say."""
    ruling = judgement.ruling
    if judgement.worse_figures and ruling != "worse_lines":
        yield _said(_ALSO["lost"], lang, lost=_lost(evaluation, judgement, lang))
    if judgement.forgets and ruling != "forgets":
        yield _said(_ALSO["forgets"], lang, forgets=_forgotten(evaluation, judgement, lang))
    if judgement.worse_on:
        kind = _ALSO["not_for" if ruling in ("better", "forgets") else "worse_on"]
        yield _said(kind, lang, languages=_languages(evaluation, judgement, lang))
    if judgement.lines_not_sure and ruling in ("better", "forgets"):
        yield _said(_ALSO["lines_not_sure"], lang)
    if judgement.stops_less:
        rate = evaluation.infill["stop_rate"]
        yield _said(_ALSO["stops_less"], lang, base=f"{rate.base:.1%}", tuned=f"{rate.tuned:.1%}")
    found = evaluation.memorisation
    if found is not None and found.memorised:
        yield _said(
            _ALSO["memorised"], lang, p=f"{found.p_value:.2g}",
            extracted=sum(one.extracted for one in found.figures),
            planted=sum(one.canaries for one in found.figures),
        )  # fmt: skip


def _remedy(evaluation: Evaluation, judgement: Judgement) -> _Remedy:
    if judgement.ruling == "too_few_files":
        return "all_read" if evaluation.files == evaluation.files_available else "some_read"
    if not all(name.startswith("infill_") for name in judgement.worse_figures):
        return "lines"
    return "taught" if evaluation.taught else "gaps"


def _lost(evaluation: Evaluation, judgement: Judgement, lang: Lang) -> str:
    parts = []
    for name in judgement.worse_figures:
        one = _difference(evaluation, name)
        value, low, high = (f"{100 * each:+.1f}" for each in (one.value, one.low, one.high))
        parts.append(
            _said(
                _PARTS["figure"], lang, name=_said(_FIGURES[name], lang), value=value, low=low,
                high=high,
            )
        )  # fmt: skip
    return "; ".join(parts)


def _difference(evaluation: Evaluation, name: str) -> Interval:
    of_gaps = name.removeprefix("infill_")
    found = (
        evaluation.line_differences[name]
        if of_gaps == name
        else evaluation.infill[of_gaps].difference
    )
    assert found is not None, "only figures with an interval get surely worse"
    return found


def _forgotten(evaluation: Evaluation, judgement: Judgement, lang: Lang) -> str:
    found, parts = evaluation.forgetting, []
    if found is None:
        return ""
    if "library" in judgement.forgets and found.library is not None:
        library = found.library
        rise = _rise(library.base_bits_per_byte, library.tuned_bits_per_byte)
        parts.append(_said(_PARTS["library"], lang, rise=f"{rise:.1%}"))
    for one in found.tasks:
        if one.name in judgement.forgets:
            parts.append(
                _said(
                    _PARTS["tasks"], lang, name=task_set(one.name, lang),
                    base=one.base_passed, tuned=one.tuned_passed, count=one.tasks,
                    p=f"{one.p_value:.3f}",
                )
            )  # fmt: skip
    return ", ".join(parts)


def _languages(evaluation: Evaluation, judgement: Judgement, lang: Lang) -> str:
    return ", ".join(
        _said(
            _PARTS["group"], lang, name=one.name,
            rise=f"{_rise(one.base_bits_per_byte, one.tuned_bits_per_byte):.1%}",
        )
        for one in evaluation.groups
        if one.by == "language" and one.name in judgement.worse_on
    )  # fmt: skip


def _rise(base: float, tuned: float) -> float:
    """Of bits per byte, as a share."""
    return tuned / base - 1


def _said(pair: Pair, lang: Lang, **values: object) -> str:
    return pair[lang == "ko"].format(**values)
