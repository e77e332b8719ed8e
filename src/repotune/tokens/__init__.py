"""Documents -> Rows of ids: tokenizer, fill in the middle, packing, shards."""

from repotune.tokens.fim import TAUGHT_ORDER, FimFormat
from repotune.tokens.gguf_metadata import gguf_metadata
from repotune.tokens.prompt import prompt_ids
from repotune.tokens.rows import build_rows
from repotune.tokens.shards import RowStore
from repotune.tokens.tokenizer import CodeTokenizer, load_tokenizer, token_names

__all__ = [
    "TAUGHT_ORDER",
    "CodeTokenizer",
    "FimFormat",
    "RowStore",
    "build_rows",
    "gguf_metadata",
    "load_tokenizer",
    "prompt_ids",
    "token_names",
]
