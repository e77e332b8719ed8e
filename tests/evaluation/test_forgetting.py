"""What was forgotten: measured, left out where it says nothing, and said."""

import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from repotune.evaluation import forgetting as module
from repotune.evaluation.forgetting import measure_forgetting
from repotune.events import Notice
from repotune.planning import ON_CPU
from repotune.sandbox import unavailable

from .tiny import document, make_tokenizer, open_decoder, random_model, randomise

MERGES = (("i", "n"), ("r", "e"), ("e", "r"))
"""So that the tokenizer has a token for each that the random model may write."""
SMALL = replace(ON_CPU, library_files=8, library_characters=300, human_eval=2, infilling=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    random_model(path)
    return path


@pytest.fixture(scope="module")
def decoder(folder):
    decoder = open_decoder(folder)
    randomise(decoder)
    return decoder


def measure(decoder, tokenizer, training=(), **changes):
    events = []
    options = {
        "extent": SMALL, "tasks": False, "max_seq_length": 64, "max_positions": 512, "workers": 2,
        "seed": 7, "emit": events.append, **changes,
    }  # fmt: skip
    return measure_forgetting(decoder, tokenizer, training, **options), events


def test_the_library_is_scored_byte_for_byte(decoder, tmp_path):
    found, events = measure(decoder, make_tokenizer(tmp_path, bos=True))
    library = found.library
    assert (library.files, library.near_duplicates) == (8, 0)
    assert 8 * 300 <= library.bytes_scored < 8 * 400
    change = library.tuned_bits_per_byte - library.base_bits_per_byte
    assert library.difference.value == pytest.approx(change)
    assert library.difference.low < change < library.difference.high
    assert found.tasks == () and found.not_measured == ()
    assert not [event for event in events if isinstance(event, Notice)]
    again, _ = measure(decoder, make_tokenizer(tmp_path, bos=True))
    assert again == found


def test_who_trains_on_the_library_is_told_that_it_says_nothing(decoder, tmp_path):
    stdlib = Path(sysconfig.get_path("stdlib"))
    extent = replace(SMALL, library_files=3, library_characters=100)
    drawn = module.draw_library((), files=3, characters=100, seed=7).documents
    training = [document(d.path, (stdlib / d.path).read_text(encoding="utf-8")) for d in drawn]
    found, events = measure(decoder, make_tokenizer(tmp_path), training, extent=extent)
    assert found.library is None
    (sentence,) = found.not_measured
    assert "3 of 3 files drawn from it are near-duplicates of files that the model" in sentence
    assert Notice(message=sentence) in events


def test_too_few_files_give_no_figure(decoder, tmp_path):
    found, _ = measure(decoder, make_tokenizer(tmp_path), extent=replace(SMALL, library_files=5))
    assert found.library is None
    assert "only 5 of its files" in found.not_measured[0]


@pytest.mark.skipif(unavailable() is not None, reason=f"no sandbox: {unavailable()}")
def test_tasks_are_solved_if_asked_for(decoder, tmp_path):
    found, _ = measure(decoder, make_tokenizer(tmp_path, merges=MERGES, fim=True), tasks=True)
    assert [(one.name, one.tasks) for one in found.tasks] == [("human_eval", 2), ("infilling", 2)]
    assert found.not_measured == ()
    found, _ = measure(decoder, make_tokenizer(tmp_path, merges=MERGES), tasks=True)
    assert [one.name for one in found.tasks] == ["human_eval"]
    assert "HumanEval's infilling was left out: the model has no tokens" in found.not_measured[0]


def test_where_there_is_no_sandbox_nothing_is_run_and_that_is_said(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "unavailable", lambda: "this kernel has no Landlock")
    found, events = measure(decoder, make_tokenizer(tmp_path, merges=MERGES, fim=True), tasks=True)
    assert found.tasks == ()
    assert found.library is not None
    said = "HumanEval was left out: what the models write cannot be run safely here, since this"
    assert found.not_measured[0].startswith(said)
    assert Notice(message=found.not_measured[0]) in events
