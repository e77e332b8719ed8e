"""Programming tasks with tests: HumanEval, and single lines of its solutions to fill in.

HumanEval is by Chen et al. (arXiv 2107.03374), the lines by Bavarian et al. (arXiv 2207.14255);
``data/README.md`` says where the files are from. A solution is right if the task's tests end well
in the sandbox; the same text is run once, whoever wrote it.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from repotune.evaluation.continuation import continuations, fitted_prompt
from repotune.evaluation.mcnemar import mcnemar_p_value
from repotune.events import Emit, StageDone, StageProgress, StageStarted
from repotune.model import Decoder
from repotune.records import TaskFigures, TaskSet
from repotune.sandbox import run_program
from repotune.tokens import CodeTokenizer
from repotune.verdict_text import task_set

FILES: Final[dict[TaskSet, str]] = {
    "human_eval": "HumanEval.jsonl.gz",
    "infilling": "HumanEval-SingleLineInfilling.jsonl.gz",
}
MAX_PROMPT_TOKENS: Final = 2048
"""More than any task has, in the tokens of code models."""
_NEW_TOKENS: Final[dict[TaskSet, int]] = {"human_eval": 256, "infilling": 64}
"""99 of 100 solutions take at most 172 tokens of the starter, all lines at most 51."""
_AT_ONCE: Final = 256
"""Prompts handed over together, between two reports of progress: few waits for the longest."""
_UNINDENTED: Final = re.compile(r"\n(?=\S)")
_DRAW: Final = 6
"""Keeps these draws apart from others of the same seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A place in a program, and the tests that it must pass once something is written there."""

    id: str
    prompt: str
    suffix: str | None
    """What follows; None: the rest of the function is to be written."""
    tests: str
    """Code to run after the program; raises if it is wrong."""
    solution: str
    """One that is right."""

    def program(self, written: str) -> str:
        """The whole program, tests and all."""
        return f"{self.prompt}{written}{self.suffix or ''}\n{self.tests}"


def read_tasks(name: TaskSet) -> list[Task]:
    """All tasks of a set, in its own order."""
    file = Path(__file__).parent / "data" / FILES[name]
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return [_task(json.loads(line)) for line in lines]


def draw_tasks(tasks: Sequence[Task], most: int | None, *, seed: int) -> list[Task]:
    """``most`` of ``tasks`` drawn by ``seed``, in their order; None: all."""
    if most is None or most >= len(tasks):
        return list(tasks)
    drawn = np.random.default_rng((seed, _DRAW)).permutation(len(tasks))[:most]
    return [tasks[index] for index in sorted(drawn)]


def solve_tasks(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    name: TaskSet,
    *,
    most: int | None,
    max_positions: int,
    workers: int,
    seed: int,
    emit: Emit,
) -> TaskFigures:
    """Let both models write greedily to the same prompts, and run the tests of what they wrote.

    At most ``most`` tasks (None: all); prompt and solution have ``max_positions`` together.
    ``workers`` programs run at a time. Progress is in solutions written. Infilling needs a
    tokenizer with fill-in-the-middle tokens. Raises SandboxError where no program can be run
    safely.

    A function ends before the first line that is not indented, a filled-in line at its end. The
    lines of one function are counted as if they were independent, as is usual; they are not quite.
    """
    all_tasks = read_tasks(name)
    tasks = draw_tasks(all_tasks, most, seed=seed)
    emit(StageStarted(stage=task_set(name), total=2 * len(tasks), unit="solutions"))
    new_tokens = _NEW_TOKENS[name]
    limit = min(MAX_PROMPT_TOKENS, max_positions - new_tokens)
    written: list[list[str]] = []
    for model, adapted in enumerate((False, True)):
        done = model * len(tasks)
        texts: list[str] = []
        for some in _batches(tasks):
            prompts = [fitted_prompt(tokenizer, t.prompt, t.suffix, limit=limit) for t in some]
            texts += continuations(
                decoder,
                tokenizer,
                prompts,
                max_new_tokens=new_tokens,
                finished=FINISHED[name],
                adapted=adapted,
            )
            emit(StageProgress(stage=task_set(name), done=done + len(texts)))
        written.append([CUT[name](text) for text in texts])
    figures = compare_solutions(name, tasks, *written, available=len(all_tasks), workers=workers)
    emit(
        StageDone(
            stage=task_set(name),
            summary=f"{figures.base_passed} -> {figures.tuned_passed} of {len(tasks)} solved",
        )
    )
    return figures


def compare_solutions(
    name: TaskSet, tasks: Sequence[Task], base: Sequence[str], tuned: Sequence[str], *,
    available: int, workers: int,
) -> TaskFigures:  # fmt: skip
    """Run what ``base`` and ``tuned`` wrote to ``tasks``. Raises SandboxError."""
    programs = [
        [task.program(text) for task, text in zip(tasks, written, strict=True)]
        for written in (base, tuned)
    ]
    distinct = list(dict.fromkeys(program for some in programs for program in some))
    with ThreadPoolExecutor(workers) as pool:
        passed = {
            program: outcome == "passed"
            for program, outcome in zip(distinct, pool.map(run_program, distinct), strict=True)
        }
    by_base, by_tuned = ([passed[program] for program in some] for some in programs)
    pairs = list(zip(by_base, by_tuned, strict=True))
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    return TaskFigures(
        name=name,
        tasks=len(tasks),
        available=available,
        base_passed=sum(by_base),
        tuned_passed=sum(by_tuned),
        lost=lost,
        won=won,
        p_value=mcnemar_p_value(lost, won),
    )


def _task(value: dict[str, str]) -> Task:
    return Task(
        id=value["task_id"],
        prompt=value["prompt"],
        suffix=value.get("suffix"),
        tests=f"{value['test']}\ncheck({value['entry_point']})\n",
        solution=value["canonical_solution"],
    )


def _body(text: str) -> str:
    """Up to the first line that is not indented."""
    return _UNINDENTED.split(text, maxsplit=1)[0] + "\n"


def _line(text: str) -> str:
    return text.partition("\n")[0] + "\n"


def _left_the_body(text: str) -> bool:
    return _UNINDENTED.search(text) is not None


def _left_the_line(text: str) -> bool:
    return "\n" in text


FINISHED: Final[dict[TaskSet, Callable[[str], bool]]] = {
    "human_eval": _left_the_body,
    "infilling": _left_the_line,
}
CUT: Final[dict[TaskSet, Callable[[str], str]]] = {"human_eval": _body, "infilling": _line}
"""What of a text is the solution."""


def _batches(tasks: Iterable[Task]) -> Iterable[list[Task]]:
    rest = iter(tasks)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
