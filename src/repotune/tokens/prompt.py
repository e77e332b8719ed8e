"""What a model is asked with, in the order that it was trained on."""

from __future__ import annotations

import numpy as np

from repotune.records import IntArray
from repotune.tokens.tokenizer import CodeTokenizer


def prompt_ids(tokenizer: CodeTokenizer, prefix: str, suffix: str | None) -> IntArray:
    """[tokens] ids after which the model writes what stands between ``prefix`` and ``suffix``.

    Left to right if there is no suffix but blanks, or no fill in the middle in the model; else
    prefix, suffix, middle, as trained.
    """
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    prefix_ids = tokenizer.encode(prefix).tolist()
    if tokenizer.fim is None or suffix is None or not suffix.strip():
        return np.array([*bos, *prefix_ids], np.int64)
    suffix_ids = tokenizer.encode_continuation(suffix).tolist()
    return np.array(tokenizer.fim.prompt(bos, prefix_ids, suffix_ids), np.int64)
