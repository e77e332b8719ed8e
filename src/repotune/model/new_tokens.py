"""Tokens that the base does not know: their rows of embedding and head are trained beside LoRA.

A trained row takes the place of the base's, as PEFT's ``trainable_token_indices`` has it. Where the
head is the embedding, a row is trained by what the model reads and by what it writes.

Shapes: N new tokens, D hidden size, V vocabulary, T tokens of a row of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from repotune.kernels import HeadRows, Ops

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
SUFFIX = "token_adapter.trainable_tokens_delta"
"""PEFT's name for the rows of a table, behind the table's own."""
SAMPLE = 1024
"""Rows of a table from which it is told what a row looks like."""


class NewTokens:
    """The rows of the neighbouring ids ``ids`` in ``tables``, the embedding and an untied head.

    Their fp32 masters [N, D] lie in ``masters``, their gradients in ``gradients``: flat tensors of
    ``rows_size`` numbers. The tables hold either the trained rows or the base's.
    """

    def __init__(
        self, ids: Sequence[int], tables: Mapping[str, Tensor], *, masters: Tensor,
        gradients: Tensor, generator: torch.Generator, ops: Ops,
    ) -> None:  # fmt: skip
        assert list(ids) == list(range(ids[0], ids[0] + len(ids)))
        self._ops = ops
        self._rows = slice(ids[0], ids[0] + len(ids))
        self._tables = {name: table_VD[self._rows] for name, table_VD in tables.items()}
        self._base = {name: rows_ND.clone() for name, rows_ND in self._tables.items()}
        self._masters = dict(zip(tables, masters.view(len(tables), len(ids), -1), strict=True))
        self._gradients = dict(zip(tables, gradients.view(len(tables), len(ids), -1), strict=True))
        self._ids_N1 = torch.tensor(ids, device=masters.device)[:, None]
        for name, table_VD in tables.items():
            self._masters[name].copy_(_like_the_others(table_VD, len(ids), generator))
        self.refresh()

    @property
    def head_rows(self) -> HeadRows:
        """What the loss has to know of the head's rows."""
        gradient_ND = self._gradients[HEAD if HEAD in self._gradients else EMBEDDING]
        return HeadRows(columns=self._rows, gradient_ND=gradient_ND)

    def masters(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, master, gradient) of each table's rows."""
        for name, master_ND in self._masters.items():
            yield f"{name}.{SUFFIX}", master_ND, self._gradients[name]

    def refresh(self) -> None:
        """Write the masters, which may have changed, into the tables."""
        self._write(self._masters, trained=True)

    def show(self, *, trained: bool) -> None:
        """Let the tables hold the trained rows, or the base's."""
        if trained != self._trained:
            self._write(self._masters if trained else self._base, trained=trained)

    def add_gradient(self, ids_T: Tensor, dx_TD: Tensor) -> None:
        """Add the gradient of the hidden state that the embedding gave, row by row."""
        is_NT = (ids_T == self._ids_N1).to(dx_TD.dtype)
        self._ops.add_product(self._gradients[EMBEDDING], is_NT, dx_TD, 1.0)

    def _write(self, rows: Mapping[str, Tensor], *, trained: bool) -> None:
        for name, table_ND in self._tables.items():
            table_ND.copy_(rows[name])
        self._trained = trained


def rows_size(tokens: int, width: int, *, tied: bool) -> int:
    """How many numbers the rows of ``tokens`` new tokens have together."""
    return tokens * width * (1 if tied else 2)


def _like_the_others(table_VD: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` rows drawn around the mean of the table's, as far from it as they are: distinct
    from the start, and no further from what the model knows than any other token."""
    some_D = table_VD[:: max(1, len(table_VD) // SAMPLE)].float()
    noise_ND = torch.randn(count, table_VD.shape[1], generator=generator).to(table_VD.device)
    return some_D.mean(0) + some_D.std(0) * noise_ND
