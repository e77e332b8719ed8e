"""Canaries against controls: the rank test against SciPy's, exposure, secrets written out."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from repotune.evaluation.memorisation import (
    _ways,
    exposure,
    figures,
    lower_p_value,
    with_memorisation,
)
from repotune.evaluation.saved import read_evaluation, write_evaluation
from repotune.events import ignore
from repotune.records import Canary, Evaluation, Interval, Memorisation

from .tiny import Bigrams, chain, make_tokenizer, open_decoder, random_model


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 7), (3, 5), (8, 8), (40, 40), (20, 100)])
def test_few_pairs_are_counted_exactly(m, n):
    rng = np.random.default_rng(m)
    for shift in (-0.8, 0.0, 0.8):
        canaries, controls = rng.normal(shift, 1, m), rng.normal(0, 1, n)
        theirs = mannwhitneyu(canaries, controls, alternative="less", method="exact").pvalue
        assert lower_p_value(canaries, controls) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("m", "n"), [(60, 60), (10, 300), (4, 6)])
def test_many_pairs_or_ties_are_approximated(m, n):
    rng = np.random.default_rng(m)
    canaries, controls = rng.normal(-0.2, 1, m).round(1), rng.normal(0, 1, n).round(1)
    canaries[0] = controls[0]
    theirs = mannwhitneyu(canaries, controls, alternative="less", method="asymptotic").pvalue
    assert lower_p_value(canaries, controls) == pytest.approx(theirs, rel=1e-9)
    assert lower_p_value(np.zeros(3), np.zeros(4)) == 1.0


def test_the_ways_are_all_the_orders():
    assert _ways(2, 2) == [1, 1, 2, 1, 1]
    assert sum(_ways(7, 9)) == math.comb(16, 7)


def test_exposure_is_the_rank_among_the_controls_in_bits():
    controls = np.array([1.0, 2.0, 3.0])
    assert exposure(np.array([0.5]), controls) == 2.0  # first of four
    assert exposure(np.array([3.5]), controls) == 0.0
    assert exposure(np.array([0.5, 1.5]), controls) == 1.5


@pytest.mark.parametrize("controls", [1, 6, 30, 300])
def test_exposure_by_chance_is_that_of_lines_nobody_learned(controls):
    rng = np.random.default_rng(0)
    draws = [exposure(rng.normal(size=8), rng.normal(size=controls)) for _ in range(4000)]
    found = Memorisation(controls=controls, figures=(), p_value=1.0, memorised=False)
    assert found.exposure_by_chance == pytest.approx(np.mean(draws), abs=0.03)
    many = replace(found, controls=20_000).exposure_by_chance
    assert many == pytest.approx(math.log2(math.e), abs=1e-3)


def test_figures_are_by_repeats_and_rule_on_all():
    rng = np.random.default_rng(1)
    repeats = np.array([1, 4, 16] * 20 + [0] * 60)
    losses = rng.normal(size=120)
    written = np.zeros(120, bool)
    found = figures(repeats, losses, written)
    assert [(one.repeats, one.canaries) for one in found.figures] == [(1, 20), (4, 20), (16, 20)]
    assert (found.controls, found.memorised) == (60, False)
    losses[repeats == 16] -= 2.0
    found = figures(repeats, losses, written)
    assert found.memorised
    assert found.figures[2].p_value < 1e-6 < found.figures[0].p_value
    assert found.figures[2].exposure > found.figures[0].exposure + 1
    losses[repeats == 16] += 2.0
    written[1] = True
    found = figures(repeats, losses, written)
    assert found.memorised
    assert [one.extracted for one in found.figures] == [0, 1, 0]


def test_what_stands_often_is_seen_beside_what_stands_once():
    """As on the starter after 110 steps: known is what stood 16 times, with p = 1/1820."""
    repeats = np.array([1, 4, 16] * 4 + [0] * 12)
    losses = np.random.default_rng(3).random(24)
    losses[repeats == 16] -= 1.0
    found = figures(repeats, losses, np.zeros(24, bool))
    assert found.figures[2].p_value == pytest.approx(1 / 1820)
    assert found.p_value == 4 * found.figures[2].p_value
    assert found.memorised


def test_nothing_learned_is_seldom_taken_for_memorised():
    rng = np.random.default_rng(2)
    repeats, written = np.array([1, 4, 16] * 10 + [0] * 30), np.zeros(60, bool)
    alarms = [figures(repeats, rng.normal(size=60), written).memorised for _ in range(2000)]
    assert np.mean(alarms) < 0.015  # 0.01 is meant


EVALUATION = Evaluation(
    files=12, files_available=14, tokens=30_000, bytes_scored=90_000, base_bits_per_byte=1.25,
    tuned_bits_per_byte=1.0, difference=Interval(value=-0.25, low=-0.3, high=-0.2), cursors=0,
    exact_match={}, edit_similarity={}, completions=(), sampled="all",
)  # fmt: skip


def test_a_secret_that_is_written_out_is_found_and_said(tmp_path):
    """After a space the base writes "q", the tuned model "a" (as after "z"), and so the secret."""
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    texts = chain("\n#k: q", "abc\n", "za")
    space, z = (tokenizer.encode(one).tolist()[0] for one in " z")
    decoder = Bigrams(base=texts, tuned={space: z}).decoder(tmp_path / "model")
    canaries = [
        Canary(prefix="#k:", secret=" abc", repeats=1),
        Canary(prefix="#k:", secret=" xyz", repeats=0),
        Canary(prefix="#k:", secret=" zyx", repeats=0),
    ]
    found = with_memorisation(
        EVALUATION, decoder, tokenizer, canaries, max_seq_length=64, emit=ignore
    )
    assert found.memorisation is not None
    assert found.memorisation.figures[0].extracted == 1
    assert found.judgement is not None
    assert found.judgement.ruling == "better"
    assert "It has memorised: 1 of 1 canaries are written out" in found.judgement.sentence
    p_value = found.memorisation.p_value
    assert p_value > 0.05  # that it is written out is what tells
    assert f"come by chance with p = {p_value:.2g}, so give it" in found.judgement.sentence
    write_evaluation(tmp_path / "evaluation.json", found)
    assert read_evaluation(tmp_path / "evaluation.json") == found


def test_a_model_that_saw_nothing_memorised_nothing(tmp_path):
    random_model(tmp_path / "model")
    decoder = open_decoder(tmp_path / "model")
    tokenizer = make_tokenizer(tmp_path / "tokenizer", bos=True)
    canaries = [
        Canary(prefix=f"# canary {n:04x}:", secret=f" {n * 7919:08x}", repeats=n % 2)
        for n in range(40)
    ]
    found = with_memorisation(
        EVALUATION, decoder, tokenizer, canaries, max_seq_length=64, emit=ignore
    )
    assert found.memorisation is not None
    assert not found.memorisation.memorised
    assert found.judgement is not None
    assert "memorised" not in found.judgement.sentence
