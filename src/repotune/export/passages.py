"""The fixed code that an export is checked on, and what our decoder makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from repotune.model import Decoder
from repotune.records import IntArray
from repotune.tokens import CodeTokenizer

CODE: Final = (
    '''def read_settings(path, default=None):
    """The settings in the file at path, or the default if there is none."""
    if not os.path.exists(path):
        return default
    with open(path, encoding="utf-8") as file:
        return json.load(file)
''',
    """package main

import "fmt"

func sum(values []int) int {
\ttotal := 0
\tfor _, value := range values {
\t\ttotal += value
\t}
\treturn total
}
""",
    """export class Counter {
  private counts = new Map<string, number>();

  add(word: string): void {
    this.counts.set(word, (this.counts.get(word) ?? 0) + 1); // 새 단어는 1
  }
}
""",
    """#include <stdio.h>

int main(void) {
    for (int i = 0; i < 10; i++) {
        printf("%d: %s\\n", i, i % 2 ? "odd" : "even");
    }
    return 0;
}
""",
)
"""Python, Go, TypeScript with a comment in Korean, C: tabs, spaces, quotes, escapes, digits."""
MAX_TOKENS: Final = 96
"""Of a passage: logits of all positions are kept, [tokens, vocabulary]."""
GAP: Final = ("def area(width, height):\n    return ", "\n\nprint(area(2, 3))\n")
"""Prefix and suffix of a prompt that asks to fill in the middle."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of code as ids, and our decoder's logits after each of them, fp32 on the CPU."""

    ids: IntArray
    """[T]"""
    logits_TV: Tensor
    """With the adapter."""
    base_TV: Tensor
    """Without it: what an export would compute that had lost the adapter."""


def passage_ids(tokenizer: CodeTokenizer) -> list[IntArray]:
    """``CODE`` as a model is given it, cut to ``MAX_TOKENS``."""
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    texts = tokenizer.encode_batch(CODE)
    return [np.array([*bos, *ids.tolist()], np.int64)[:MAX_TOKENS] for ids in texts]


def read_by_us(decoder: Decoder, all_ids: Sequence[IntArray]) -> list[Passage]:
    """What our decoder, with its adapter and without, expects after each token."""

    def logits(ids: IntArray, adapted: bool) -> Tensor:
        return decoder.logits(ids, adapted=adapted).to("cpu", torch.float32)

    return [Passage(ids, logits(ids, True), logits(ids, False)) for ids in all_ids]
