"""Fill in the middle: which tokens a vocabulary has for it, and ids in the order of training.

    prefix-suffix-middle   [BOS] PRE prefix SUF suffix MID middle END      every family
    suffix-prefix-middle   [BOS] PRE SUF suffix MID prefix middle END      CodeLlama, StarCoder
    the same, marked       [BOS] SUF suffix PRE prefix MID middle END      models that are taught

The families differ in the tokens that stand for PRE, SUF, MID and END, and in whether prefix and
middle are encoded as one text in the second order. They are told apart by the tokens in the
vocabulary, never by the model's name. DeepSeek's published order, "begin prefix hole suffix end
middle", is the first one under other names.

Sources: CodeLlama's released ``tokenizer.py`` and arXiv 2308.12950 §2.3; Qwen2.5-Coder,
arXiv 2409.12186 §3; StarCoder, arXiv 2305.06161 §5.1 and BigCode's Megatron-LM (``_permute``);
DeepSeek-Coder, arXiv 2401.14196 §3.1.2.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Spm: TypeAlias = Literal["never", "joined", "apart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FimFormat:
    """The ids of one family, and its orders."""

    prefix_id: int
    suffix_id: int
    middle_id: int
    end_id: int
    spm: Spm
    """Suffix-prefix-middle: not trained, or with prefix and middle encoded as one text
    (``joined``) or each by itself (``apart``)."""
    taught: bool = False
    """Not the base's own: the suffix stands first, and the middle's token before the middle."""

    @property
    def ids(self) -> frozenset[int]:
        """The four tokens."""
        return frozenset((self.prefix_id, self.suffix_id, self.middle_id, self.end_id))

    def psm(
        self,
        bos: Sequence[int],
        prefix: Sequence[int],
        suffix: Sequence[int],
        middle: Sequence[int],
    ) -> list[int]:
        """A document for training: ``prompt``, middle, end; ``bos`` has one id or none."""
        return [*self.prompt(bos, prefix, suffix), *middle, self.end_id]

    def spm_document(
        self, bos: Sequence[int], suffix: Sequence[int], prefix_and_middle: Sequence[int]
    ) -> list[int]:
        """A document for training, suffix first."""
        return [
            *bos, self.prefix_id, self.suffix_id, *suffix,
            self.middle_id, *prefix_and_middle, self.end_id,
        ]  # fmt: skip

    def prompt(self, bos: Sequence[int], prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
        """What stands before the middle; it ends with the id that asks for one."""
        if self.taught:
            return [*bos, self.suffix_id, *suffix, self.prefix_id, *prefix, self.middle_id]
        return [*bos, self.prefix_id, *prefix, self.suffix_id, *suffix, self.middle_id]

    def text(self, names: Mapping[int, str] | Sequence[str], prefix: str, suffix: str) -> str:
        """``prompt`` as text, in a vocabulary whose tokens are called ``names``."""
        ids = (self.prefix_id, self.suffix_id, self.middle_id)
        before, after, asks = (names[one] for one in ids)
        if self.taught:
            return f"{after}{suffix}{before}{prefix}{asks}"
        return f"{before}{prefix}{after}{suffix}{asks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The tokens of one family by their names in the vocabulary."""

    prefix: str
    suffix: str
    middle: str
    end: str | None
    """None: a document ends with the model's end-of-sequence token."""
    spm: Spm
    taught: bool = False

    @property
    def names(self) -> list[str]:
        """The family's own tokens."""
        names = (self.prefix, self.suffix, self.middle, self.end)
        return [name for name in names if name is not None]


ADDED: Final = Family(
    prefix="<|fim_prefix|>", suffix="<|fim_suffix|>", middle="<|fim_middle|>", end="<|fim_end|>",
    spm="never", taught=True,
)  # fmt: skip
"""What a model is taught that has no tokens of its own: Qwen2.5-Coder's names, which editors and
llama.cpp know, and an end that no text has. One order, since there is little to learn it from:
suffix, prefix, middle, so that the middle goes on from what stands just before it, with the
middle's token between them, without which no end is learned (measured, see ``benchmarks``). It is
that of llama.cpp's ``--spm-infill``."""
TAUGHT_ORDER: Final = "suffix, prefix, token, middle"
"""What a run writes down of it, so that none is asked in another order than it was taught."""
FAMILIES: Final[Mapping[str, Family]] = {
    "taught": ADDED,
    "CodeLlama": Family(
        prefix="\u2581<PRE>", suffix="\u2581<SUF>", middle="\u2581<MID>", end="\u2581<EOT>",
        spm="joined",
    ),
    "Qwen2.5-Coder": Family(
        prefix="<|fim_prefix|>", suffix="<|fim_suffix|>", middle="<|fim_middle|>",
        end="<|endoftext|>", spm="never",
    ),
    "StarCoder": Family(
        prefix="<fim_prefix>", suffix="<fim_suffix>", middle="<fim_middle>",
        end="<|endoftext|>", spm="apart",
    ),
    "DeepSeek-Coder": Family(
        prefix="<\uff5cfim\u2581begin\uff5c>", suffix="<\uff5cfim\u2581hole\uff5c>",
        middle="<\uff5cfim\u2581end\uff5c>", end=None, spm="never",
    ),
}  # fmt: skip


def fim_tokens_in(vocabulary: Container[str]) -> list[str]:
    """The tokens of the family whose prefix, suffix and middle the vocabulary has, if any."""
    family = _family(vocabulary)
    return [] if family is None else family.names


def find_fim(special: Mapping[str, int], eos_id: int) -> FimFormat | None:
    """The format that a model with these special tokens (text -> id) was trained with, or None."""
    family = _family(special)
    if family is None:
        return None
    return FimFormat(
        prefix_id=special[family.prefix],
        suffix_id=special[family.suffix],
        middle_id=special[family.middle],
        end_id=eos_id if family.end is None else special[family.end],
        spm=family.spm,
        taught=family.taught,
    )


def _family(vocabulary: Container[str]) -> Family | None:
    for family in FAMILIES.values():
        if all(name in vocabulary for name in family.names):
            return family
    return None
