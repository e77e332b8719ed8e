"""Golden ids of each family, written out from its published order."""

import pytest

from repotune.tokens.fim import fim_tokens_in, find_fim

from .vocabularies import SPECIAL

PREFIX, MIDDLE, SUFFIX = "def f(x):\n    return ", "x + 1", "\n\n"
# enc: ▁def ▁f ( x ): \n ▁▁▁ ▁return ▁; inf: without the space in front
PREFIX_IDS = [822, 285, 29898, 29916, 1125, 13, 1678, 736, 29871]
MIDDLE_IDS = [29916, 718, 29871, 29896]
SUFFIX_IDS = [13, 13]


def parts(tokenizer, prefix, middle, suffix):
    return (
        tokenizer.encode(prefix).tolist(),
        tokenizer.encode_continuation(middle).tolist(),
        tokenizer.encode_continuation(suffix).tolist(),
    )


def test_codellama(codellama):
    prefix, middle, suffix = parts(codellama, PREFIX, MIDDLE, SUFFIX)
    assert (prefix, middle, suffix) == (PREFIX_IDS, MIDDLE_IDS, SUFFIX_IDS)
    fim = codellama.fim
    assert fim.psm([1], prefix, suffix, middle) == [
        1, 32007, 822, 285, 29898, 29916, 1125, 13, 1678, 736, 29871,
        32008, 13, 13, 32009, 29916, 718, 29871, 29896, 32010,
    ]  # fmt: skip
    # Here prefix and middle are one text: "return x" ends in ▁x.
    together = codellama.encode(PREFIX + MIDDLE).tolist()
    assert fim.spm_document([1], suffix, together) == [
        1, 32007, 32008, 13, 13, 32009,
        822, 285, 29898, 29916, 1125, 13, 1678, 736, 921, 718, 29871, 29896, 32010,
    ]  # fmt: skip
    assert fim.spm == "joined"


# "Q", "Z" and "!" are the pieces 48, 57 and 0 of the small vocabularies; StarCoder's begins with
# its five special tokens.


def test_qwen(families):
    prefix, middle, suffix = parts(families["qwen"], "Q", "Z", "!")
    # <|fim_prefix|> Q <|fim_suffix|> ! <|fim_middle|> Z <|endoftext|>
    ids = families["qwen"].fim.psm([], prefix, suffix, middle)
    assert ids == [603, 48, 605, 0, 604, 57, 600]
    assert families["qwen"].fim.spm == "never"


def test_starcoder(families):
    prefix, middle, suffix = parts(families["starcoder"], "Q", "Z", "!")
    fim = families["starcoder"].fim
    # <fim_prefix> Q <fim_suffix> ! <fim_middle> Z <|endoftext|>
    assert fim.psm([], prefix, suffix, middle) == [1, 53, 3, 5, 2, 62, 0]
    # <fim_prefix> <fim_suffix> ! <fim_middle> Q Z <|endoftext|>
    assert fim.spm_document([], suffix, [*prefix, *middle]) == [1, 3, 5, 2, 53, 62, 0]
    assert fim.spm == "apart"


def test_deepseek(families):
    prefix, middle, suffix = parts(families["deepseek"], "Q", "Z", "!")
    # <bos> <｜fim▁begin｜> Q <｜fim▁hole｜> ! <｜fim▁end｜> Z <eos>
    ids = families["deepseek"].fim.psm([600], prefix, suffix, middle)
    assert ids == [600, 603, 48, 602, 0, 604, 57, 601]
    assert families["deepseek"].fim.spm == "never"


def test_a_family_needs_all_of_its_tokens():
    special = {token: number for number, token in enumerate(SPECIAL["qwen"])}
    assert find_fim(special, 0).ids == {3, 5, 4, 0}
    for missing in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>"):
        rest = {token: number for token, number in special.items() if token != missing}
        assert find_fim(rest, 0) is None
        assert fim_tokens_in(rest) == []


@pytest.mark.parametrize("name", ["<PRE>", "<repo_name>", "fim_prefix"])
def test_names_alone_mean_nothing(name):
    assert find_fim({name: 1, "<|endoftext|>": 0}, 0) is None
