"""Tokenizers to test with: the real Llama vocabulary, and small ones of the other families.

The small ones are trained here, with the family's token strings, splitting and settings as in its
published ``tokenizer.json``.
"""

import hashlib
import json
import random
from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from repotune.gguf_file import open_gguf
from repotune.records import Document

DATA = Path(__file__).parents[1] / "data" / "llama-tokenizer"
LLAMA = DATA / "ggml-vocab-llama-spm.gguf"
CODELLAMA_FIM = {"▁<PRE>": 32007, "▁<SUF>": 32008, "▁<MID>": 32009, "▁<EOT>": 32010}
DEEPSEEK_BOS, DEEPSEEK_EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
SPECIAL = {
    "qwen": (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>",
        "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    ),
    "starcoder": ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"),
    "deepseek": (
        DEEPSEEK_BOS, DEEPSEEK_EOS, "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<|EOT|>",
    ),
}  # fmt: skip
SETTINGS = {
    "qwen": {"add_bos_token": False, "bos_token": None, "eos_token": "<|endoftext|>"},
    "starcoder": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "deepseek": {
        "add_bos_token": True,
        "bos_token": {"content": DEEPSEEK_BOS},
        "eos_token": {"content": DEEPSEEK_EOS},
    },
}
BYTE_LEVEL_FAMILIES = tuple(SPECIAL)

NASTY = (
    "\r\n", "\t \n\n\n", "\x00", "e\u0301", "\u200d👩\u200d💻", "\ufeff", "½Ⅷ٣", "ÿ\x7f",
    "한글\u3000", "</s>", "<s>", "<unk>", "<0x0A>", "▁<PRE>", "<PRE>", " <EOT>", "<FILL_ME>",
    "<|endoftext|>", "<|fim_prefix|>", "<fim_suffix>", "<｜fim▁hole｜>", "<|im_end|>", "õ",
    "<｜end▁of▁sentence｜>",
)  # fmt: skip


def random_text(seed: int, pieces: int = 60) -> str:
    """Code-like words, spaces, nasty strings and characters from all of Unicode."""
    rng = random.Random(seed)
    words = ("def", "self", "return", "x", "import os", "(", "):", "\n", "    ", " ", "12345", "=")
    parts = []
    for _ in range(pieces):
        kind = rng.random()
        if kind < 0.6:
            parts.append(rng.choice(words))
        elif kind < 0.8:
            parts.append(rng.choice(NASTY))
        else:
            # No surrogates, and no unassigned planes: SmolLM2 lacks the bytes for some of them.
            code = rng.randrange(0x30000)
            parts.append(chr(code if not 0xD800 <= code < 0xE000 else 0x41))
    return "".join(parts)


@cache
def sample_code() -> tuple[str, ...]:
    """Real code: the json package of the standard library."""
    return tuple(
        path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parent.glob("*.py"))
    )


def document(path: str, text: str) -> Document:
    return Document(
        path=path,
        language="python",
        text=text,
        sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
        cluster=0,
        split="train",
        encoding="utf-8",
    )


def write_codellama(folder: Path) -> Path:
    """CodeLlama's tokenizer as Hugging Face converts it: every way to put any piece together is a
    merge, also for ``</s>`` and ``<0x0A>``."""
    metadata = open_gguf(LLAMA).metadata
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = []
    for piece, score in zip(tokens, scores, strict=True):
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges.extend(
            (-score, vocab[left], vocab[right], f"{left} {right}")
            for left, right in cuts
            if left in vocab and right in vocab
        )
    added = {"<unk>": 0, "<s>": 1, "</s>": 2, **CODELLAMA_FIM}
    content = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, number in added.items()
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [merge[3] for merge in sorted(merges)],
        },
    }
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    write_json(folder / "config.json", {"vocab_size": 32016})
    return folder


def write_byte_level(folder: Path, family: str) -> Path:
    """A vocabulary of 600 pieces with the family's special tokens behind it."""
    library = tokenizers.Tokenizer(models.BPE())
    if family == "qwen":
        library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.Sequence(_splits(family))
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # StarCoder's special tokens lie inside the vocabulary, the others' behind it.
        special_tokens=list(SPECIAL[family]) if family == "starcoder" else [],
        show_progress=False,
    )
    library.train_from_iterator(sample_code(), trainer)
    library.add_special_tokens(list(SPECIAL[family]))
    library.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", SETTINGS[family])
    return folder


def _splits(family: str) -> list[pre_tokenizers.PreTokenizer]:
    def isolated(regex: str) -> pre_tokenizers.PreTokenizer:
        return pre_tokenizers.Split(Regex(regex), behavior="isolated")

    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if family == "starcoder":
        return [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    if family == "qwen":
        qwen = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        return [isolated(qwen), to_bytes]
    deepseek = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
    digits = pre_tokenizers.Digits(individual_digits=True)
    return [*map(isolated, deepseek), digits, to_bytes]


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
