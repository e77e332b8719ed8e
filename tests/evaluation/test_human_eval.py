"""Right solutions pass, wrong ones fail, and what a model writes ends where it should."""

import numpy as np
import pytest

from repotune.evaluation.human_eval import (
    CUT,
    FINISHED,
    compare_solutions,
    draw_tasks,
    read_tasks,
    solve_tasks,
)
from repotune.events import StageDone, StageProgress, StageStarted
from repotune.sandbox import unavailable

from .tiny import BYTES, Bigrams, chain, make_tokenizer, open_decoder, random_model, randomise

sandboxed = pytest.mark.skipif(unavailable() is not None, reason=f"no sandbox: {unavailable()}")
SIZES = {"human_eval": 164, "infilling": 1033}
WORKERS = 2


def solutions(tasks):
    return [task.solution for task in tasks]


def figures_of(name, tasks, base, tuned):
    return compare_solutions(name, tasks, base, tuned, available=len(tasks), workers=WORKERS)


@pytest.mark.parametrize("name", SIZES)
def test_all_tasks_are_there(name):
    tasks = read_tasks(name)
    assert len({task.id for task in tasks}) == len(tasks) == SIZES[name]
    assert {task.suffix is None for task in tasks} == {name == "human_eval"}
    for task in tasks:
        compile(task.program(task.solution), task.id, "exec")


@pytest.mark.parametrize("name", SIZES)
def test_the_seed_draws_tasks(name):
    tasks = read_tasks(name)
    assert draw_tasks(tasks, None, seed=1) == draw_tasks(tasks, 10**6, seed=1) == tasks
    drawn = draw_tasks(tasks, 10, seed=1)
    assert len({task.id for task in drawn}) == 10
    assert drawn == draw_tasks(tasks, 10, seed=1) != draw_tasks(tasks, 10, seed=2)
    order = [tasks.index(task) for task in drawn]
    assert order == sorted(order)


@pytest.mark.parametrize("name", SIZES)
def test_a_right_solution_is_not_cut_and_ends_the_writing(name):
    for task in read_tasks(name):
        written = task.solution + ("def another():\n    pass\n" if name == "human_eval" else "x\n")
        assert CUT[name](written).strip("\n") == task.solution.strip("\n")
        assert FINISHED[name](written)


def test_a_function_ends_where_the_indentation_does():
    assert not FINISHED["human_eval"]("    x = 1\n\n    return x\n")
    assert (
        CUT["human_eval"]("    x = 1\n\n    return x\n# done\nx") == "    x = 1\n\n    return x\n"
    )
    assert not FINISHED["infilling"]("    x = 1")
    assert CUT["infilling"]("    x = 1\n    y\n") == "    x = 1\n"


@sandboxed
@pytest.mark.parametrize("name", SIZES)
def test_who_writes_the_solutions_passes_and_who_writes_nonsense_fails(name):
    tasks = draw_tasks(read_tasks(name), 10, seed=3)
    wrong = ["        return None\n"] * 10
    figures = figures_of(name, tasks, solutions(tasks), wrong)
    assert (figures.tasks, figures.base_passed) == (10, 10)
    assert figures.tuned_passed <= 1  # a line of ten may be one that nothing depends on
    assert figures.lost == 10 - figures.tuned_passed
    assert figures.won == 0
    assert figures.p_value < 0.05


@sandboxed
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SIZES)
def test_all_solutions_pass(name):
    tasks = read_tasks(name)
    figures = figures_of(name, tasks, solutions(tasks), solutions(tasks))
    assert figures.base_passed == figures.tuned_passed == SIZES[name]
    assert (figures.lost, figures.won, figures.p_value) == (0, 0, 1.0)


@sandboxed
def test_pairs_are_counted_by_who_solved_what():
    tasks = draw_tasks(read_tasks("human_eval"), 4, seed=3)
    right, wrong = solutions(tasks), ["    raise SystemExit(0)\n"] * 4
    base = [right[0], right[1], wrong[2], wrong[3]]
    tuned = [right[0], wrong[1], right[2], wrong[3]]
    figures = figures_of("human_eval", tasks, base, tuned)
    assert (figures.base_passed, figures.tuned_passed) == (2, 2)
    assert (figures.lost, figures.won, figures.p_value) == (1, 1, 1.0)


@sandboxed
def test_models_write_to_the_same_prompts_and_are_told_apart(tmp_path):
    """The base writes ``return`` and the tuned model something else after each prompt's end."""
    new_line, space = BYTES + ord("\n"), BYTES + ord(" ")
    base = {**chain(" pass"), new_line: space, BYTES + ord("s"): 0}
    decoder = Bigrams(base=base, tuned={BYTES + ord("p"): BYTES + ord("q")}).decoder(tmp_path)
    events = []
    figures = solve_tasks(
        decoder, make_tokenizer(tmp_path / "tokenizer"), "human_eval", most=3, max_positions=4096,
        workers=WORKERS, seed=1, emit=events.append,
    )  # fmt: skip
    assert (figures.tasks, figures.available, figures.name) == (3, 164, "human_eval")
    assert (figures.base_passed, figures.tuned_passed) == (0, 0)
    assert StageStarted(stage="HumanEval", total=6, unit="solutions") in events
    assert [one.done for one in events if isinstance(one, StageProgress)] == [3, 6]
    assert StageDone(stage="HumanEval", summary="0 -> 0 of 3 solved") in events


@sandboxed
def test_lines_are_filled_in_by_a_model_that_can(tmp_path):
    random_model(tmp_path)
    decoder = open_decoder(tmp_path)
    randomise(decoder)
    tokenizer = make_tokenizer(tmp_path / "tokenizer", fim=True)
    again = [
        solve_tasks(
            decoder, tokenizer, "infilling", most=2, max_positions=512, workers=WORKERS, seed=1,
            emit=lambda event: None,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert again[0] == again[1]
    assert again[0].tasks == 2
    assert np.isfinite(again[0].p_value)
