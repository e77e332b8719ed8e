"""What base and tuned write at the same cursors, beside what stood there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz import fuzz

from repotune.errors import UsageError
from repotune.evaluation.bootstrap import paired_interval
from repotune.evaluation.continuation import BROKEN, continuation, fitted_prompt
from repotune.evaluation.cursors import Cursor
from repotune.evaluation.groups import MIN_FILES
from repotune.evaluation.names import asked_names, names_of
from repotune.events import Emit, StageProgress
from repotune.model import Decoder
from repotune.records import Completion, Interval
from repotune.tokens import CodeTokenizer

TAIL_LINES = 8
"""So many lines before the cursor are shown with a completion."""
EDITOR_LINES = (256, 64)
"""So many lines before and after the cursor an editor sends: the defaults of llama.vscode and
llama.vim."""
MODELS = (("base", False), ("tuned", True))


def exact_match(written: str, truth: str) -> bool:
    """Whether the two lines are the same but for white space around them, as CrossCodeEval asks."""
    return written.strip() == truth.strip()


def edit_similarity(written: str, truth: str) -> float:
    """How alike the two stripped lines are, 0 to 1: CrossCodeEval's ``fuzz.ratio`` / 100."""
    return fuzz.ratio(written.strip(), truth.strip()) / 100


def write_next_lines(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    cursors: Sequence[Cursor],
    *,
    defined: frozenset[str],
    max_seq_length: int,
    max_line_tokens: int,
    stage: str,
    emit: Emit,
) -> list[Completion]:
    """The line that each model writes at each cursor, greedily; progress is in cursors.

    Both get the same prompt: the file up to the cursor, or as much of its end as leaves room for
    the line in ``max_seq_length``. A line longer than ``max_line_tokens`` is cut there.
    ``defined`` are the names that the repository defines, as far as the training has seen it.
    """
    done: list[Completion] = []
    for cursor in cursors:
        limit = _prompt_limit(max_seq_length, max_line_tokens)
        prompt = fitted_prompt(tokenizer, cursor.prefix, None, limit=limit)
        written = {
            name: continuation(
                decoder,
                tokenizer,
                prompt,
                max_new_tokens=max_line_tokens,
                finished=_has_line_end,
                adapted=adapted,
            ).partition("\n")[0]
            for name, adapted in MODELS
        }
        done.append(
            Completion(
                path=cursor.path,
                line=cursor.line,
                prompt_tail=_tail(cursor.prefix),
                truth=cursor.truth,
                base=written["base"],
                tuned=written["tuned"],
                names=asked_names(cursor.truth, cursor.prefix, defined),
            )
        )
        emit(StageProgress(stage=stage, done=len(done)))
    return done


def figures(completions: Sequence[Completion]) -> tuple[dict[str, float], dict[str, float]]:
    """Share of exact matches and mean edit similarity, of ``base`` and ``tuned``.

    Without completions both are empty: there is nothing to say.
    """
    if not completions:
        return {}, {}
    texts = {
        "base": [(one.base, one.truth) for one in completions],
        "tuned": [(one.tuned, one.truth) for one in completions],
    }
    count = len(completions)
    exact = {name: sum(exact_match(*pair) for pair in texts[name]) / count for name in texts}
    alike = {name: sum(edit_similarity(*pair) for pair in texts[name]) / count for name in texts}
    return exact, alike


def name_recall(completions: Sequence[Completion]) -> tuple[int, dict[str, float]]:
    """How many names were asked for, and the share of them that ``base`` and ``tuned`` wrote.

    Without a name the shares are empty.
    """
    asked = sum(len(one.names) for one in completions)
    if not asked:
        return 0, {}
    return asked, {
        "base": sum(_recalled(one.names, one.base) for one in completions) / asked,
        "tuned": sum(_recalled(one.names, one.tuned) for one in completions) / asked,
    }


def line_differences(completions: Sequence[Completion], *, seed: int) -> dict[str, Interval]:
    """Tuned minus base of each figure, with a paired bootstrap over files.

    ``exact_match`` and ``edit_similarity`` are means over completions, ``name_recall`` one over
    names. A figure of which fewer than six files say something is left out.
    """
    found = {}
    for name, figure in _LINE_FIGURES.items():
        files: dict[str, list[tuple[float, float, int]]] = {}
        for one in completions:
            (base, size), (tuned, _) = figure(one, one.base), figure(one, one.tuned)
            if size:
                files.setdefault(one.path, []).append((base, tuned, size))
        if len(files) >= MIN_FILES:
            sums = np.array([np.sum(of_file, axis=0) for of_file in files.values()])
            found[name] = paired_interval(sums[:, 0], sums[:, 1], sums[:, 2], seed=seed)
    return found


def _exact(one: Completion, line: str) -> tuple[float, int]:
    return float(exact_match(line, one.truth)), 1


def _alike(one: Completion, line: str) -> tuple[float, int]:
    return edit_similarity(line, one.truth), 1


def _named(one: Completion, line: str) -> tuple[float, int]:
    return float(_recalled(one.names, line)), len(one.names)


_LINE_FIGURES = {"exact_match": _exact, "edit_similarity": _alike, "name_recall": _named}
"""Of a completion and the line that a model wrote: a sum, and of how many."""


def telling_first(completions: Sequence[Completion]) -> tuple[Completion, ...]:
    """Those that only the tuned model got right come first; else the order stays."""
    return tuple(
        sorted(
            completions,
            key=lambda one: (
                exact_match(one.base, one.truth) or not exact_match(one.tuned, one.truth)
            ),
        )
    )


def complete_at(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    text: str,
    *,
    path: str,
    line: int,
    column: int | None,
    suffix: str | None,
    max_new_tokens: int,
    max_seq_length: int,
) -> Completion:
    """What base and tuned write at a place in ``text``, the content of the file ``path``.

    They are given as many lines around it as an editor sends, cut to ``max_seq_length`` ids.

    ``line`` and ``column`` count from 1; the cursor stands before the column, without one at the
    end of the line. With code to its right, the rest of the line is to be written; at the end of a
    line, what follows: as many whole lines as ``max_new_tokens`` hold. That is the truth, and no
    model sees it. One that can fill in the middle sees the code after the truth. ``suffix`` is seen
    in its place if it is given; then nobody knows the truth.

    Raises UsageError if there is no such place, nothing before it to go on from, or a suffix for a
    model that cannot fill in the middle.
    """
    cursor = _offset(text, path, line, column)
    prefix, rest = text[:cursor], text[cursor:]
    of_line = rest.partition("\n")[0]
    inside = bool(of_line.strip())
    truth = of_line if inside else _lines_within(tokenizer, rest, max_new_tokens)
    if suffix is not None:
        _refuse_no_fim(tokenizer)
        inside, truth = False, ""
    after = rest[len(truth) :] if suffix is None else suffix
    before, after = _as_an_editor_sends(prefix, after)
    fills_in = tokenizer.fim is not None and bool(after.strip())
    limit = _prompt_limit(max_seq_length, max_new_tokens)
    prompt = fitted_prompt(tokenizer, before, after if fills_in else None, limit=limit)
    if not len(prompt):
        raise UsageError(
            f"There is nothing before line {line} of {path} for the model to go on from: choose a "
            "place further down."
        )
    written = {
        name: continuation(
            decoder,
            tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            finished=_has_line_end if inside else _never,
            adapted=adapted,
        )
        for name, adapted in MODELS
    }
    if inside:
        written = {name: one.partition("\n")[0] for name, one in written.items()}
    return Completion(
        path=path,
        line=line,
        prompt_tail=_tail(prefix),
        truth=truth,
        base=written["base"],
        tuned=written["tuned"],
    )


def _refuse_no_fim(tokenizer: CodeTokenizer) -> None:
    if tokenizer.fim is None:
        raise UsageError(
            "This model has no tokens for fill in the middle, so it cannot look at a suffix: leave "
            "--suffix out, or tune a model that has them (CodeLlama, Qwen2.5-Coder, StarCoder, "
            "DeepSeek-Coder)."
        )


def _as_an_editor_sends(prefix: str, suffix: str) -> tuple[str, str]:
    """The lines nearest to the cursor, see ``EDITOR_LINES``."""
    before, after = EDITOR_LINES
    lines = prefix.split("\n")
    return "\n".join(lines[-before:]), "".join(suffix.splitlines(keepends=True)[:after])


def _offset(text: str, path: str, line: int, column: int | None) -> int:
    lines = text.split("\n")
    if line > len(lines):
        count = len(lines) - (lines[-1] == "")  # the end of the last line begins no further one
        raise UsageError(
            f"{path} has {count} lines, and line {line} was asked for: choose one that is there."
        )
    start = sum(len(one) + 1 for one in lines[: line - 1])
    width = len(lines[line - 1])
    if column is not None and column > width + 1:
        raise UsageError(
            f"Line {line} of {path} has {width} characters, and column {column} was asked for: "
            f"choose one up to {width + 1}, which is the end of the line."
        )
    return start + (width if column is None else column - 1)


def _lines_within(tokenizer: CodeTokenizer, text: str, limit: int) -> str:
    """The whole lines at the beginning of ``text`` that ``limit`` tokens hold, or a part of one."""
    ids = tokenizer.encode(text)
    if len(ids) <= limit:
        return text
    head = tokenizer.decode(ids[:limit]).rstrip(BROKEN)
    whole = head.rpartition("\n")[0]
    return whole if whole.strip() else head


def _prompt_limit(max_seq_length: int, max_new_tokens: int) -> int:
    """Room for what is to be written, but never for less than half a row of prompt."""
    return max(max_seq_length // 2, max_seq_length - max_new_tokens)


def _tail(prefix: str) -> str:
    end = "\n" if prefix.endswith("\n") else ""
    return "\n".join(prefix.removesuffix("\n").split("\n")[-TAIL_LINES:]) + end


def _recalled(names: Sequence[str], line: str) -> int:
    return len(set(names) & names_of(line))


def _has_line_end(text: str) -> bool:
    return "\n" in text


def _never(text: str) -> bool:
    return False
