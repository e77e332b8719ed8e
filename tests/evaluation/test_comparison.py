"""The whole evaluation, and its file."""

import json
import math
from dataclasses import replace

import pytest

from repotune.errors import CorpusError, RunError
from repotune.evaluation import evaluate, read_evaluation, with_forgetting, write_evaluation
from repotune.events import Notice, StageDone, StageProgress, StageStarted
from repotune.records import Forgetting, Interval, LibraryFigures, LoraSpec, TaskFigures

from .tiny import (
    BYTES,
    Bigrams,
    chain,
    document,
    make_tokenizer,
    open_decoder,
    random_model,
    randomise,
)

DOCUMENTS = [
    document(f"{i:02}.py", "".join(f"name{n} = {n * i}\n" for n in range(9 + i))) for i in range(8)
]

FORGETTING = Forgetting(
    library=LibraryFigures(
        files=24, near_duplicates=2, bytes_scored=48_000, base_bits_per_byte=1.0,
        tuned_bits_per_byte=1.03, difference=Interval(value=0.03, low=0.01, high=0.05),
    ),
    tasks=(
        TaskFigures(
            name="human_eval", tasks=24, available=164, base_passed=5, tuned_passed=4, lost=2,
            won=1, p_value=1.0,
        ),
    ),
    not_measured=("HumanEval's infilling was left out.",),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    random_model(path)
    return path


def compare(decoder, tokenizer, documents=DOCUMENTS, **changes):
    events = []
    options = {
        "max_seq_length": 64, "max_tokens": None, "max_cursors": 3, "max_line_tokens": 5,
        "max_gaps": 4, "max_gap_tokens": 6,
        "max_prompt_tokens": 59, "seed": 7,
        "emit": events.append, **changes,
    }  # fmt: skip
    options.setdefault("training", [document("t.py", "def name3(): pass\nname5 = 1\n")])
    return evaluate(decoder, tokenizer, documents, **options), events


def test_everything_is_counted_and_said(tokenizer, folder):
    decoder = open_decoder(folder)
    randomise(decoder)
    found, events = compare(decoder, tokenizer)
    size = sum(len(one.text) for one in DOCUMENTS)
    assert (found.files, found.files_available, found.tokens, found.bytes_scored) == (
        8,
        8,
        size,
        size,
    )
    change = found.tuned_bits_per_byte - found.base_bits_per_byte
    assert found.difference.value == pytest.approx(change, rel=1e-9)
    assert found.difference.low < change < found.difference.high
    assert found.cursors == len(found.completions) == 3
    assert set(found.exact_match) == set(found.edit_similarity) == {"base", "tuned"}
    assert found.sampled == "all of every file; 3 next lines drawn by seed 7, evenly over the files"

    assert StageStarted(stage="evaluation", total=size, unit="tokens") in events
    assert StageStarted(stage="next lines", total=3, unit="cursors") in events
    last = {event.stage: event.done for event in events if isinstance(event, StageProgress)}
    assert last == {"evaluation": size, "next lines": 3}
    assert [event.stage for event in events if isinstance(event, StageDone)] == list(last)
    assert not [event for event in events if isinstance(event, Notice)]
    again, _ = compare(decoder, tokenizer, DOCUMENTS[::-1])
    assert again == found


def test_a_budget_is_kept_and_named(tokenizer, folder):
    found, _ = compare(open_decoder(folder), tokenizer, max_tokens=300)
    assert found.tokens == found.bytes_scored == 300
    assert found.files == 5  # four windows of 64 and a part of a fifth
    assert found.sampled.startswith("files drawn by seed 7, of each at most its first 64 tokens; ")


def test_without_a_bos_the_sentence_says_so(folder, tmp_path):
    found, _ = compare(open_decoder(folder), make_tokenizer(tmp_path), max_cursors=0)
    assert "all of every file, the first token of each as context only" in found.sampled
    assert found.bytes_scored == sum(len(one.text) - 1 for one in DOCUMENTS)


def test_an_adapter_that_is_not_there_makes_no_difference(tokenizer, folder):
    none = LoraSpec(r=4, alpha=8.0, dropout=0.0, target_modules=())
    found, _ = compare(open_decoder(folder, lora=none), tokenizer)
    assert found.base_bits_per_byte == found.tuned_bits_per_byte
    assert (found.difference.value, found.difference.low, found.difference.high) == (0.0, 0.0, 0.0)
    assert all(one.base == one.tuned for one in found.completions)
    # B = 0: the same numbers by a wider matmul, whose sums are rounded otherwise
    found, _ = compare(open_decoder(folder), tokenizer)
    assert abs(found.difference.value) < 1e-6


def test_what_only_the_tuned_model_gets_right_is_found(tokenizer, tmp_path):
    c, d = BYTES + ord("c"), BYTES + ord("d")
    decoder = Bigrams(base=chain("\ncat\n", "dog\n"), tuned={c: d}).decoder(tmp_path)
    documents = [document("a.py", "a\nb\nx\ncog\n"), document("b.py", "a\nb\nx\ncat\n")]
    found, _ = compare(decoder, tokenizer, documents, max_cursors=2)
    assert found.exact_match == {"base": 0.5, "tuned": 0.5}
    written = {one.path: (one.base, one.tuned) for one in found.completions}
    assert written == {"a.py": ("cat", "cog"), "b.py": ("cat", "cog")}
    # "cat" and "cog" share one letter of 3 + 3
    assert found.edit_similarity == pytest.approx({"base": 2 / 3, "tuned": 2 / 3})


def test_one_file_gives_a_figure_and_says_that_it_gives_no_interval(tokenizer, folder):
    decoder = open_decoder(folder)
    randomise(decoder)
    found, events = compare(decoder, tokenizer, DOCUMENTS[:1])
    assert found.difference.low < 0 < found.difference.high
    assert math.isfinite(found.difference.high)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert "one file gives no interval" in notice.message


def test_files_without_a_line_to_complete_are_still_scored(tokenizer, folder):
    found, events = compare(open_decoder(folder), tokenizer, [document("a.py", "x = 1\n")] * 2)
    assert found.cursors == 0
    assert (found.exact_match, found.edit_similarity, found.completions) == ({}, {}, ())
    assert events[-1] == StageDone(stage="next lines", summary="no line to complete was found")


def test_near_duplicates_of_training_files_are_in_no_figure(tokenizer, folder):
    copy = document("copy.py", DOCUMENTS[7].text + "more = 1\n")
    found, events = compare(
        open_decoder(folder), tokenizer, [*DOCUMENTS[:2], copy], max_cursors=30,
        training=[document("t.py", DOCUMENTS[7].text)],
    )  # fmt: skip
    assert (found.left_out, found.files, found.files_available) == (1, 2, 2)
    assert "copy.py" not in {one.path for one in found.completions}
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.message.startswith("1 of 3 held-out files are left out of all figures")


def test_gaps_are_filled_where_the_tokenizer_has_tokens_for_it(folder, tmp_path):
    decoder = open_decoder(folder)
    randomise(decoder)
    every_id = [("\n", " "), ("n", "a"), ("m", "e")]  # a random model writes any
    tokenizer = make_tokenizer(tmp_path, fim=True, merges=every_id)
    found, events = compare(decoder, tokenizer)
    assert len(found.infills) == 4
    assert "next_line" not in {one.gap for one in found.infills}
    assert {"exact_match", "edit_similarity", "stop_rate"} <= set(found.infill)
    assert found.infill["stop_rate"].count == 4
    assert [one.name for one in found.line_groups] == ["Python", "."]
    assert found.line_groups[0].infill == found.infill
    assert StageStarted(stage="gaps", total=4, unit="gaps") in events
    assert events[-1].stage == "gaps"
    assert "3 next lines and 4 gaps drawn by seed 7" in found.sampled
    path = tmp_path / "evaluation.json"
    write_evaluation(path, found)
    assert read_evaluation(path) == found


@pytest.mark.parametrize("documents", [[], [document("a.py", "")]])
def test_nothing_to_score_is_an_error(documents, tokenizer, folder):
    with pytest.raises(CorpusError, match=f"nothing to evaluate on in {len(documents)} held-out"):
        compare(open_decoder(folder), tokenizer, documents)


def test_an_evaluation_is_read_as_it_was_written(tokenizer, folder, tmp_path):
    found, _ = compare(open_decoder(folder), tokenizer)
    found = replace(found, completions=(replace(found.completions[0], truth="한글 = '\ud7a3'"),))
    path = tmp_path / "evaluation.json"
    write_evaluation(path, found)
    assert read_evaluation(path) == found
    for forgetting in (FORGETTING, replace(FORGETTING, library=None, tasks=())):
        write_evaluation(path, with_forgetting(found, forgetting))
        assert read_evaluation(path) == with_forgetting(found, forgetting)
    write_evaluation(path, found)
    assert json.loads(path.read_text(encoding="utf-8"))["difference"]["low"] == found.difference.low
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]


def test_an_evaluation_of_an_older_version_is_read_and_judged(tokenizer, folder, tmp_path):
    found, _ = compare(open_decoder(folder), tokenizer)
    assert found.judgement.ruling == "no_gain"
    assert [one.name for one in found.groups] == ["Python", "."]
    path = tmp_path / "evaluation.json"
    write_evaluation(path, found)
    old = json.loads(path.read_text(encoding="utf-8"))
    new = (
        "names", "name_recall", "line_differences", "groups", "judgement", "infill", "infills",
        "line_groups", "left_out", "forgetting",
    )  # fmt: skip
    for name in new:
        del old[name]
    for one in old["completions"]:
        for name in ("names", "gap", "suffix_head", "base_ended", "tuned_ended"):
            del one[name]
    path.write_text(json.dumps(old), encoding="utf-8")
    again = read_evaluation(path)
    assert again.judgement == found.judgement
    assert again.difference == found.difference
    # a judgement that does not say which figures got worse is made again
    old["judgement"] = {"ship": True, "ruling": "better", "worse_on": [], "sentence": "Old."}
    path.write_text(json.dumps(old), encoding="utf-8")
    assert read_evaluation(path).judgement == found.judgement


@pytest.mark.parametrize(
    "damage", ["", "[]", "{", '{"files": 3}', '{"difference": 1, "completions": []}', "\udcff"]
)
def test_a_damaged_evaluation_is_said_in_a_sentence(damage, tmp_path):
    path = tmp_path / "evaluation.json"
    with pytest.raises(RunError, match=r"cannot be read .*: make it again with `repotune evaluate"):
        read_evaluation(path)
    path.write_bytes(damage.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"is damaged .*: make it again with `repotune evaluate"):
        read_evaluation(path)
