"""When memory runs out in a step: less is kept, then fewer rows go through the model at once.

The weights change only in the optimizer's step, after all passes; so a step that ran out of memory
before that is repeated from zeroed gradients, over the very same rows. The rungs, in order:

    1  the planner's next policy: recompute more, move more to host memory
    2  half the rows a pass, twice the passes: the global batch stays what it is
    3  rows cut in halves, where the user agreed: a document that crosses a cut loses its context

Ranks are never changed: another rank is another adapter, so that is the user's to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final, TypeAlias, TypeVar

import torch

from repotune.errors import DoesNotFit, TrainingError
from repotune.events import Emit, Healed
from repotune.records import Passes, Policy

Result = TypeVar("Result")

LEAST_TOKENS: Final = 256
"""Rows are not cut shorter: less context than that teaches little."""
NO_MEMORY: Final = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Of errors that have no class of their own, in small allocators and libraries."""
LOST: Final = (
    "device-side assert",
    "unspecified launch failure",
    "illegal memory access",
    "GPU is lost",
    "fallen off the bus",
    "unknown error",
    "device is busy or unavailable",
    "ECC error",
)
"""What CUDA says when a context, or the card itself, can no longer be used."""

Replan: TypeAlias = Callable[[int, Policy | None], Policy | None]
"""(tokens of a pass, a policy that was too much or None) -> the best one that takes less than that;
None if there is none."""


class HalfUpdated(TrainingError):
    """Some weights are of the step before, some of this one: nothing of them may be saved."""


class Memory:
    """Runs steps, and finds passes that fit where memory runs out.

    ``release`` lets go of what a broken pass left behind; ``may_cut_rows`` is the user's consent
    to the last rung.
    """

    def __init__(
        self, passes: Passes, *, replan: Replan, release: Callable[[], None], may_cut_rows: bool,
        emit: Emit,
    ) -> None:  # fmt: skip
        self.passes = passes
        self._replan, self._release = replan, release
        self._may_cut_rows, self._emit = may_cut_rows, emit
        self._tokens_per_row = 0

    def run(
        self, attempt: Callable[[Passes], Result], *, step: int, tokens_per_row: int,
        updates: Callable[[], int],
    ) -> Result:  # fmt: skip
        """``attempt(passes)``, again with the next rung while it runs out of memory.

        ``updates`` counts the changes of the weights: after one nothing may be repeated. ``step``
        is for messages. Raises DoesNotFit when there is no rung left, HalfUpdated if memory ran out
        too late for a repetition.
        """
        before, self._tokens_per_row = updates(), tokens_per_row
        while True:
            try:
                return attempt(self.passes)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if updates() != before:
                    raise HalfUpdated(
                        f"Memory ran out while the weights were updated at step {step}: close "
                        "other programs and go on with --resume."
                    ) from error
            # Outside of the handler: the traceback holds the tensors of the broken pass.
            self._release()
            self.passes = self._next(step)

    def _next(self, step: int) -> Passes:
        passes = self.passes
        lower = self._replan(self._tokens(passes), passes.policy)
        if lower is not None:
            found = Passes(policy=lower, rows=passes.rows, cuts=passes.cuts)
            remedy = f"less is kept from now on: {lower.reason}"
        elif passes.rows > 1:
            found = self._smaller(rows=passes.rows // 2, cuts=passes.cuts)
            remedy = (
                f"{found.rows} instead of {passes.rows} rows go through the model at once, and the "
                "global batch stays what it was."
            )
        elif self._may_cut_rows and self._tokens(passes) >= 2 * LEAST_TOKENS:
            found = self._smaller(rows=1, cuts=passes.cuts * 2)
            remedy = (
                f"rows are cut to {self._tokens(found):,} tokens, as allow_shorter_rows permits."
            )
        else:
            raise DoesNotFit(self._way_out(step))
        self._emit(
            Healed(
                step=step, remedy=remedy, rows_per_pass=found.rows,
                tokens_per_pass=self._tokens(found), passes=asdict(found),
            )
        )  # fmt: skip
        return found

    def _smaller(self, *, rows: int, cuts: int) -> Passes:
        tokens = rows * self._tokens_per_row // cuts
        policy = self._replan(tokens, None) or self.passes.policy
        return Passes(policy=policy, rows=rows, cuts=cuts)

    def _tokens(self, passes: Passes) -> int:
        return passes.rows * self._tokens_per_row // passes.cuts

    def _way_out(self, step: int) -> str:
        shorter = "" if self._may_cut_rows else "allow_shorter_rows = true, "
        # All the planner may do is keep everything only where gradient_checkpointing is off.
        keeps_all = all(layer.saving == "all" for layer in self.passes.policy.layers)
        recompute = ", and with --gradient-checkpointing if that is off" if keeps_all else ""
        return (
            f"Memory ran out at step {step} although one row of {self._tokens(self.passes):,} "
            "tokens goes through the model at a time and the planner has nothing left to give up, "
            "and what was saved is whole: close other programs and go on with "
            f"--resume{recompute}, or start a new run with {shorter}a smaller max_seq_length or a "
            "smaller lora_r."
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a GPU or in host memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in NO_MEMORY)


def is_lost(error: RuntimeError) -> bool:
    """Whether the GPU can no longer be used by this process."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(word in str(error) for word in LOST)


@contextmanager
def explaining_a_lost_gpu(saved: Callable[[], str | None]) -> Iterator[None]:
    """Turn what CUDA says of a GPU that is lost into TrainingError; ``saved`` is where to go on."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        said = str(error).strip().split("\n")[0]
        raise TrainingError(
            f"The GPU was lost ({said}): look whether `nvidia-smi` still shows it, and after a "
            "restart of the driver or of the computer go on from "
            f"{saved() or 'the beginning'} with --resume."
        ) from error
