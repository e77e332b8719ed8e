"""What programs and people are told of a result."""

import json
from dataclasses import replace
from typing import Literal

from repotune.cli.show import (
    evaluation_text,
    handover_text,
    resume_command,
    served_text,
    tune_json,
    tune_text,
)
from repotune.records import (
    Compared,
    Completion,
    Evaluation,
    Forgetting,
    GroupFigures,
    HandOver,
    Interval,
    Judgement,
    LibraryFigures,
    Outcome,
    Proof,
    RunResult,
    Served,
    TaskFigures,
    Trial,
)

EVALUATION = Evaluation(
    files=12,
    files_available=14,
    tokens=30_000,
    bytes_scored=90_000,
    base_bits_per_byte=1.25,
    tuned_bits_per_byte=1.0,
    difference=Interval(value=-0.25, low=-0.3, high=-0.2),
    cursors=20,
    exact_match={"base": 0.25, "tuned": 0.5},
    edit_similarity={"base": 0.5, "tuned": 0.75},
    completions=(
        Completion(
            path="src/장바구니.py",
            line=7,
            prompt_tail="def total(self):\n    return ",
            truth="sum(self.prices)",
            base="0",
            tuned="sum(self.items)\n",
        ),
    ),
    sampled="12 files by seed 42",
)
RESULT = RunResult(
    run="/runs/a",
    steps=75,
    tokens=153_600,
    tokens_kept=0.999,
    tokens_per_second=480.0,
    interrupted=False,
    adapter="/runs/a/adapter",
    evaluation=EVALUATION,
)


def test_programs_get_the_promised_keys() -> None:
    shown = json.loads(json.dumps(tune_json(RESULT), allow_nan=False))
    assert shown["heldout_bits_per_byte"] == {
        "base": 1.25,
        "tuned": 1.0,
        "ci95_of_difference": [-0.3, -0.2],
    }
    figures = {key: shown[key] for key in ("run", "steps", "tokens", "tokens_kept")}
    assert figures == {"run": "/runs/a", "steps": 75, "tokens": 153_600, "tokens_kept": 0.999}
    assert shown["tokens_per_second"] == 480.0
    assert shown["evaluation"]["completions"][0]["path"] == "src/장바구니.py"


def test_a_run_without_an_evaluation_says_so_under_the_same_key() -> None:
    result = RunResult(
        run="/runs/a",
        steps=3,
        tokens=10,
        tokens_kept=1.0,
        tokens_per_second=5.0,
        interrupted=True,
        adapter=None,
        evaluation=None,
    )
    shown = tune_json(result)
    assert shown["heldout_bits_per_byte"] is None
    assert shown["interrupted"] is True
    assert "Adapter" not in tune_text(result)


def test_people_get_the_figure_its_interval_and_one_completion() -> None:
    text = tune_text(RESULT)
    assert "1.2500 -> 1.0000 bits per byte (-20.0%" in text
    assert "95 % interval -0.3000 to -0.2000" in text
    assert "12 of 14 files" in text
    assert text.endswith(evaluation_text(EVALUATION))
    assert text.splitlines()[-6:] == [
        "At src/장바구니.py:7",
        "       | def total(self):",
        "       |     return ",
        "  base | 0",
        " tuned | sum(self.items)",
        " truth | sum(self.prices)",
    ]


def test_the_verdict_comes_last_after_names_and_groups() -> None:
    def group(by: Literal["language", "directory"], name: str) -> GroupFigures:
        return GroupFigures(
            by=by, name=name, files=7, bytes_scored=9, base_bits_per_byte=1.25,
            tuned_bits_per_byte=1.0, difference=EVALUATION.difference if name != "C" else None,
        )  # fmt: skip

    judgement = Judgement(ship=True, ruling="better", worse_on=(), sentence="Better: ship it.")
    groups = (group("language", "Python"), group("language", "C"), group("directory", "src"))
    lines = evaluation_text(
        replace(
            EVALUATION, judgement=judgement, groups=groups, names=8,
            name_recall={"base": 0.125, "tuned": 0.5},
        )
    ).splitlines()  # fmt: skip
    assert lines[-1] == "Verdict    Better: ship it."
    assert lines[4].startswith("Own names  12.5% -> 50.0% of 8 names that your code defines")
    assert lines[5:7] == [
        "By language Python: 1.2500 -> 1.0000, difference -0.3000 to -0.2000, 7 files",
        "By language C: 1.2500 -> 1.0000, too few for an interval, 7 files",
    ]
    assert not any("src: " in line for line in lines)  # the only directory is all files


def test_what_was_forgotten_has_a_line_each_and_what_was_not_measured_too() -> None:
    library = LibraryFigures(
        files=24, near_duplicates=2, bytes_scored=48_000, base_bits_per_byte=1.0,
        tuned_bits_per_byte=1.03, difference=Interval(value=0.03, low=0.01, high=0.05),
    )  # fmt: skip
    solved = TaskFigures(
        name="human_eval", tasks=24, available=164, base_passed=5, tuned_passed=4, lost=2, won=1,
        p_value=1.0,
    )  # fmt: skip
    forgetting = Forgetting(library=library, tasks=(solved,), not_measured=("No infilling.",))
    text = evaluation_text(replace(EVALUATION, forgetting=forgetting))
    assert (
        "Forgetting Python's standard library 1.0000 -> 1.0300 bits per byte (+3.0%; difference "
        "+0.0100 to +0.0500; bound +2 %), 24 files\n"
        "Forgetting HumanEval 5 -> 4 of 24 solved (2 lost, 1 won, p = 1.000)\n"
        "           No infilling.\n"
    ) in text


def test_gaps_and_files_left_out_are_shown() -> None:
    figures = {
        name: Compared(base=0.25, tuned=0.5, count=18, difference=None)
        for name in ("exact_match", "edit_similarity", "stop_rate")
    }
    text = evaluation_text(replace(EVALUATION, infill=figures, left_out=2))
    assert (
        "\nFill in    exact 25.0% -> 50.0%, edit similarity 0.250 -> 0.500, "
        "stopped by itself 25.0% -> 50.0%, 18 gaps\n"
    ) in text
    assert "left out 2\n" in text
    assert "Fill in" not in evaluation_text(EVALUATION)


def test_predicted_against_measured() -> None:
    outcome = Outcome(
        machine_id="0123456789ab",
        model="starter",
        config={},
        predicted_peak_bytes=4 * 2**30,
        measured_peak_bytes=5 * 2**30,
        predicted_tokens_per_second=1200.0,
        measured_tokens_per_second=1234.5,
        steps=75,
        date="2026-11-25T10:00:00+00:00",
    )
    result = replace(RESULT, outcome=outcome)
    line = "Plan       predicted 4.0 GiB, 1,200 tokens/s; measured 5.0 GiB, 1,234 tokens/s"
    assert line in tune_text(result)
    assert tune_json(result)["plan"] == {
        "peak_gib": {"predicted": 4.0, "measured": 5.0},
        "tokens_per_second": {"predicted": 1200.0, "measured": 1234.5},
    }
    hidden = replace(result, outcome=replace(outcome, measured_peak_bytes=None))
    assert "measured no peak, 1,234 tokens/s" in tune_text(hidden)
    assert tune_json(hidden)["plan"]["peak_gib"]["measured"] is None
    assert tune_json(RESULT)["plan"] is None
    assert "Plan " not in tune_text(RESULT)


def test_the_command_to_go_on_can_be_pasted() -> None:
    assert resume_command("/runs/a") == "repotune tune --resume /runs/a"
    assert resume_command("/my runs/a") == 'repotune tune --resume "/my runs/a"'


def test_a_hand_over_shows_the_proof_and_what_was_not_proved() -> None:
    done = HandOver(
        format="ollama",
        folder="out",
        files={"Modelfile": 300, "out-Q8_0.gguf": 144_800_000},
        proof=Proof(
            by="llama.cpp (xllamacpp 1)", positions=125, drift=0.0894, drift_bound=0.2,
            same_token=0.976, nats=0.7818, their_nats=0.7832, loss_bound=0.04,
            adapter_share=1.02,
        ),
        unchecked=("ollama itself did not read it.",),
        command="ollama create out -f out/Modelfile",
    )  # fmt: skip
    lines = handover_text(done).split("\n")
    assert lines[2].split() == ["144.8", "MB", "out-Q8_0.gguf"]
    assert "differ by 8.94% (bound 20%), same token at 97.6% of 125 positions" in lines[3]
    assert lines[4:] == [
        "Unchecked  ollama itself did not read it.",
        "Use it     ollama create out -f out/Modelfile",
    ]
    assert "Proved" not in handover_text(replace(done, proof=None))


def test_what_is_served_shows_the_gap_filled_and_ends_with_the_address():
    trial = Trial(model="tuned", prefix="a = ", suffix="\nb = a\n", answer="1", seconds=0.25)
    served = Served(
        address="http://127.0.0.1:8012", token="secret-token", models=("tuned",),
        files={"tuned": "/runs/a/serve/x.gguf"}, trials=(trial,),
        settings={"neovim/minuet.lua": "-- one\nreturn 2\n"}, proofs={}, context=4096,
        unchecked=("nothing was compared.",),
    )  # fmt: skip
    lines = served_text(served).splitlines()
    assert "           a = |1|" in lines
    assert lines[lines.index("neovim/minuet.lua") + 1] == "    -- one"
    assert "Token      secret-token" in lines
    assert "Models     tuned, 4,096 tokens of prompt and answer" in lines
    assert "Unchecked  nothing was compared." in lines
    assert lines[-1].startswith("Ready      http://127.0.0.1:8012 ")
