"""The same ids as the models' own tokenizers, every text back byte for byte, never a special id."""

import heapq
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from repotune.errors import TokenizerError
from repotune.gguf_file import open_gguf
from repotune.model.starter import starter_path
from repotune.tokens import load_tokenizer

from .vocabularies import (
    BYTE_LEVEL_FAMILIES,
    CODELLAMA_FIM,
    DATA,
    LLAMA,
    NASTY,
    random_text,
    sample_code,
    write_json,
)

TEXTS = [random_text(seed) for seed in range(40)]


def test_llama_gives_the_46_vectors_of_llama_cpp(llama):
    texts = (DATA / f"{LLAMA.name}.inp").read_bytes().decode("utf-8")
    texts = texts.removesuffix("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n")
    lines = (DATA / f"{LLAMA.name}.out").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(lines) == 46
    for text, line in zip(texts, lines, strict=True):
        ids = [int(number) for number in line.split()]
        assert llama.encode(text).tolist() == ids, text
        assert llama.decode(ids) == text


def sentencepiece_ids(text, vocab, scores):
    """SentencePiece's rule, written out: merge the neighbours whose piece has the best score, the
    leftmost first; what has no piece becomes bytes."""
    symbols = list("▁" + text.replace(" ", "▁"))
    following = list(range(1, len(symbols) + 1))
    before = list(range(-1, len(symbols) - 1))
    heap = []

    def offer(left):
        right = following[left] if left >= 0 else len(symbols)
        if right < len(symbols):
            joined = symbols[left] + symbols[right]
            if joined in scores:
                heapq.heappush(heap, (-scores[joined], left, right, joined))

    for place in range(len(symbols)):
        offer(place)
    while heap:
        _, left, right, joined = heapq.heappop(heap)
        if following[left] != right or (symbols[left] or "") + (symbols[right] or "") != joined:
            continue
        symbols[left], symbols[right] = joined, None
        following[left] = following[right]
        if following[left] < len(symbols):
            before[following[left]] = left
        offer(before[left])
        offer(left)
    ids = []
    for symbol in filter(None, symbols):
        bytes_ids = [vocab[f"<0x{byte:02X}>"] for byte in symbol.encode("utf-8")]
        ids.extend([vocab[symbol]] if symbol in vocab else bytes_ids)
    return ids


def test_llama_merges_as_sentencepiece_does(llama, codellama):
    metadata = open_gguf(LLAMA).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    vocab = {token: number for number, token in enumerate(tokens)}
    scores = {
        token: score
        for token, score, kind in zip(
            tokens,
            metadata["tokenizer.ggml.scores"],
            metadata["tokenizer.ggml.token_type"],
            strict=True,
        )
        if kind == 1
    }
    for text in (*TEXTS, *sample_code(), "aaaaaaaaaaaaaaa", "-" * 77, " " * 37 + "\n" * 9):
        expected = sentencepiece_ids(text, vocab, scores)
        assert llama.encode(text).tolist() == expected
        assert codellama.encode(text).tolist() == expected


def test_starter_encodes_as_transformers_does(starter):
    path = starter_path()
    oracle = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name).backend_tokenizer
    # transformers forgets the digits when it reads a GGUF file; SmolLM2's tokenizer.json has them.
    oracle.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    texts = [text.replace("<|endoftext|>", "").replace("<|im_end|>", "") for text in TEXTS]
    texts.extend(sample_code())
    for text, ids in zip(texts, starter.encode_batch(texts), strict=True):
        assert ids.tolist() == oracle.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", BYTE_LEVEL_FAMILIES)
def test_byte_level_families_encode_as_their_tokenizer_json(family, folders, families):
    content = json.loads((folders[family] / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = None  # Qwen's NFC, which would change bytes
    oracle = tokenizers.Tokenizer.from_str(json.dumps(content))
    oracle.encode_special_tokens = True
    for text in (*TEXTS, *sample_code()):
        ids = families[family].encode(text).tolist()
        assert ids == oracle.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", ["llama", "starter", "codellama", *BYTE_LEVEL_FAMILIES])
def test_no_text_becomes_a_special_id_and_every_text_comes_back(family, families, llama, starter):
    tokenizer = {**families, "llama": llama, "starter": starter}[family]
    texts = [*NASTY, "".join(NASTY), *TEXTS, *sample_code(), "", " ", "  x", "\n"]
    if family in ("llama", "codellama"):  # the one character that they cannot give back
        texts = [text.replace("▁", "_") for text in texts]
    for text in texts:
        ids = tokenizer.encode(text)
        assert not set(ids.tolist()) & tokenizer.special_ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.why_not_exact(text, ids.tolist()) is None
        ids = tokenizer.encode_continuation(text)
        assert not set(ids.tolist()) & tokenizer.special_ids
        assert tokenizer.decode(ids, continuation=True) == text


def test_special_tokens_that_merges_lead_to_are_out_of_reach(folders, tmp_path):
    content = json.loads((folders["starcoder"] / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] |= {"<=": 1000, "<=>": 1001}
    content["model"]["merges"] = [["<", "="], ["<=", ">"], *content["model"]["merges"]]
    added = {**content["added_tokens"][0], "content": "<=>", "id": 1001}
    content["added_tokens"].append(added)
    write_json(tmp_path / "tokenizer.json", content)
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    tokenizer = load_tokenizer(tmp_path)
    assert 1001 in tokenizer.special_ids
    pieces = [tokenizer.decode([number]) for number in tokenizer.encode("x<=>y").tolist()]
    assert pieces == ["x", "<=", ">", "y"]
    # The trap is real: without its added tokens the file still gives the special id.
    content["added_tokens"] = []
    assert 1001 in tokenizers.Tokenizer.from_str(json.dumps(content)).encode("x<=>y").ids


def test_a_character_that_sentencepiece_loses_is_told(codellama, starter):
    text = "bar = '\u2581'\n"
    assert "U+2581" in codellama.why_not_exact(text, codellama.encode(text).tolist())
    assert starter.why_not_exact(text, starter.encode(text).tolist()) is None
    # SmolLM2's vocabulary has no piece for the byte F1.
    ids = starter.encode("x\U00051234").tolist()
    assert "byte for byte" in starter.why_not_exact("x\U00051234", ids)


@pytest.mark.parametrize("text", ["x", " x", "    return", "\n", "한", "=", "\t\tif", "<PRE>"])
def test_a_continuation_is_the_smiley_trick_of_codellama(text, codellama):
    # Its released code encodes "☺" + text and drops two ids, "▁" and "☺".
    expected = codellama.encode("☺" + text)[2:]
    assert codellama.encode_continuation(text).tolist() == expected.tolist()


def test_decode_leaves_special_ids_out_and_marks_broken_characters(codellama, starter):
    ids = codellama.encode("x = 1").tolist()
    assert codellama.decode([1, *ids, 32007, 2, 32010]) == "x = 1"
    smiley = starter.encode("🙂")
    assert len(smiley) > 1
    assert starter.decode(smiley[:-1]) == "\ufffd"
    assert codellama.decode(codellama.encode("return x"), continuation=True) == " return x"


def test_an_id_outside_the_vocabulary_is_an_error(codellama):
    with pytest.raises(TokenizerError, match="Token 40000 is not in the vocabulary"):
        codellama.decode(np.array([1, 40_000]))


def test_batches_equal_single_texts(starter):
    for one, ids in zip(TEXTS, starter.encode_batch(TEXTS), strict=True):
        assert starter.encode(one).tolist() == ids.tolist()


def test_what_stands_around_a_document(families, llama, starter):
    assert (starter.bos_id, starter.eos_id, starter.vocab_size) == (None, 2, 49_152)
    assert starter.fim is None
    assert starter.stop_ids == {0, 2}
    assert (llama.bos_id, llama.eos_id, llama.vocab_size, llama.fim) == (1, 2, 32_000, None)
    codellama = families["codellama"]
    assert (codellama.bos_id, codellama.eos_id, codellama.vocab_size) == (1, 2, 32_011)
    assert codellama.stop_ids == {2, CODELLAMA_FIM["▁<EOT>"]}
    assert families["qwen"].bos_id is None
    assert families["starcoder"].bos_id is None
    assert families["deepseek"].bos_id == 600
    assert families["deepseek"].eos_id == 601


def test_the_fingerprint_tells_tokenizers_apart(families, llama, folders):
    fingerprints = {one.fingerprint for one in (*families.values(), llama)}
    assert len(fingerprints) == len(families) + 1
    assert load_tokenizer(folders["qwen"]).fingerprint == families["qwen"].fingerprint
