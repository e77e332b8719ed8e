"""What base and tuned write at the same cursors, beside what stood there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from repotune.errors import UsageError
from repotune.evaluation.continuation import (
    BROKEN,
    Written,
    continuation,
    fitted_prompt,
    write_on,
)
from repotune.evaluation.cursors import Cursor
from repotune.evaluation.names import asked_names
from repotune.events import Emit, StageProgress
from repotune.model import Decoder
from repotune.records import Completion, IntArray
from repotune.tokens import CodeTokenizer

TAIL_LINES, HEAD_LINES = 8, 3
"""So many lines before and after the cursor are kept with a completion."""
EDITOR_LINES = (256, 64)
"""So many lines before and after the cursor an editor sends: the defaults of llama.vscode and
llama.vim."""
MODELS = (("base", False), ("tuned", True))
AT_ONCE = 32
"""Cursors: then progress is said."""
GPU_AT_ONCE = 256
"""A GPU waits for its host, so that a step takes as long for more prompts."""


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
    writing = _Writing(decoder, tokenizer, defined, max_seq_length, max_line_tokens, stage, emit)
    return [
        replace(one, base=_first_line(one.base), tuned=_first_line(one.tuned))
        for one in writing.at(cursors, _has_line_end)
    ]


def write_infills(
    decoder: Decoder,
    tokenizer: CodeTokenizer,
    gaps: Sequence[Cursor],
    *,
    defined: frozenset[str],
    max_seq_length: int,
    max_gap_tokens: int,
    stage: str,
    emit: Emit,
) -> list[Completion]:
    """What each model fills in, greedily, until it says itself that this is all.

    Nothing is cut off what is written: whoever goes on beyond the gap is wrong in an editor, too.
    After ``max_gap_tokens`` it ends in any case. The tokenizer must have tokens for it.
    """
    writing = _Writing(decoder, tokenizer, defined, max_seq_length, max_gap_tokens, stage, emit)
    return list(writing.at(gaps, _never))


@dataclass(frozen=True, slots=True)
class _Writing:
    """What is the same for all cursors."""

    decoder: Decoder
    tokenizer: CodeTokenizer
    defined: frozenset[str]
    max_seq_length: int
    max_new_tokens: int
    stage: str
    emit: Emit

    def at(
        self, cursors: Sequence[Cursor], finished: Callable[[str], bool]
    ) -> Iterator[Completion]:
        """What both models write at each cursor."""
        limit = _prompt_limit(self.max_seq_length, self.max_new_tokens)
        at_once = GPU_AT_ONCE if self.decoder.device.type == "cuda" else AT_ONCE
        for start in range(0, len(cursors), at_once):
            some = cursors[start : start + at_once]
            bases, tuneds = (
                write_on(
                    self.decoder,
                    self.tokenizer,
                    [self._prompt(one, adapted, limit) for one in some],
                    max_new_tokens=self.max_new_tokens,
                    finished=finished,
                    adapted=adapted,
                )
                for _, adapted in MODELS
            )
            for cursor, base, tuned in zip(some, bases, tuneds, strict=True):
                yield self._completion(cursor, self._fair(cursor, base), tuned)
            self.emit(StageProgress(stage=self.stage, done=start + len(some)))

    def _prompt(self, cursor: Cursor, adapted: bool, limit: int) -> IntArray:
        """Without the code behind a gap for a base that was not taught to read it."""
        sees = adapted or not self.tokenizer.added_ids
        return fitted_prompt(
            self.tokenizer, cursor.prefix, cursor.suffix if sees else None, limit=limit
        )

    def _fair(self, cursor: Cursor, base: Written) -> Written:
        """A base that cannot say where a gap ends is told how many lines it has."""
        if cursor.suffix is None or not self.tokenizer.added_ids:
            return base
        lines = base.text.split("\n")[: cursor.truth.count("\n") + 1]
        return replace(base, text="\n".join(lines))

    def _completion(self, cursor: Cursor, base: Written, tuned: Written) -> Completion:
        suffix = cursor.suffix or ""
        return Completion(
            path=cursor.path,
            line=cursor.line,
            prompt_tail=_tail(cursor.prefix),
            truth=cursor.truth,
            base=base.text,
            tuned=tuned.text,
            names=asked_names(cursor.truth, cursor.prefix + suffix, self.defined),
            gap=cursor.gap,
            suffix_head="\n".join(suffix.split("\n")[:HEAD_LINES]),
            base_ended=base.ended,
            tuned_ended=tuned.ended,
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
    model sees it. One that can fill in the middle sees the code after the truth; a base whose
    tuned model was taught to does not. ``suffix`` is seen in its place if it is given; then nobody
    knows the truth.

    Raises UsageError if there is no such place, nothing before it to go on from, a suffix for a
    model that cannot fill in the middle, or less than half of ``max_seq_length`` for the prompt.
    """
    if max_new_tokens > max_seq_length // 2:
        raise UsageError(
            f"--max-new-tokens {max_new_tokens:,} leaves too little for the prompt of the "
            f"{max_seq_length:,} tokens that both have: ask for at most {max_seq_length // 2:,}."
        )
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
    prompts = {
        adapted: fitted_prompt(tokenizer, before, after if seen else None, limit=limit)
        for adapted, seen in ((True, fills_in), (False, fills_in and not tokenizer.added_ids))
    }
    if not all(map(len, prompts.values())):
        raise UsageError(
            f"There is nothing before line {line} of {path} for the model to go on from: choose a "
            "place further down."
        )
    written = {
        name: continuation(
            decoder,
            tokenizer,
            prompts[adapted],
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
            "--suffix out, tune a model that has them (CodeLlama, Qwen2.5-Coder, StarCoder, "
            "DeepSeek-Coder), or teach it some with `repotune tune --fim-tokens add`."
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
            f"{path} has {count} line{'s' * (count != 1)}, and line {line} was asked for: choose "
            "one that is there."
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


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _has_line_end(text: str) -> bool:
    return "\n" in text


def _never(text: str) -> bool:
    return False
