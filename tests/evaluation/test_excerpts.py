"""What is read of which file, and how many bytes it stands for."""

import json

import numpy as np
import pytest
import tokenizers

from repotune.evaluation.excerpts import choose_excerpts
from repotune.tokens import load_tokenizer

from .tiny import BOS, BYTES, document, make_tokenizer


def choose(documents, tokenizer, *, max_seq_length=16, max_tokens=None, seed=0):
    return choose_excerpts(
        documents, tokenizer, max_seq_length=max_seq_length, max_tokens=max_tokens, seed=seed
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """With a BOS; "ab" and "abc" are one token."""
    folder = tmp_path_factory.mktemp("tokenizer")
    return make_tokenizer(folder, merges=[("a", "b"), ("ab", "c")], bos=True)


def test_everything_is_scored_where_a_bos_stands_before_it(tokenizer):
    text = "abc x 한글\n"
    reading = choose([document("a.py", text), document("empty.py", "")], tokenizer)
    (excerpt,) = reading.excerpts
    assert excerpt.sequence[0] == BOS
    assert excerpt.sequence[1] == BYTES + 256 + 1  # "abc"
    assert excerpt.tokens == len(text.encode()) - 2
    assert excerpt.bytes_scored == len(text.encode())
    assert reading.cap is None


def test_without_a_bos_the_first_token_is_context_and_its_bytes_are_not_counted(tmp_path):
    tokenizer = make_tokenizer(tmp_path, merges=[("a", "b"), ("ab", "c")])
    texts = ["abc = 1\n", "a", "한\n"]
    found = choose([document(f"{i}.py", t) for i, t in enumerate(texts)], tokenizer).excerpts
    assert [e.path for e in found] == ["0.py", "2.py"]  # one token alone predicts nothing
    assert [e.bytes_scored for e in found] == [len(" = 1\n"), 3]
    assert [e.tokens for e in found] == [5, 3]
    assert [e.first_scored for e in found] == [1, 1]


def test_a_cut_inside_a_character_counts_the_bytes_before_it(tokenizer):
    reading = choose([document("a.py", "x한글")], tokenizer, max_tokens=3)
    (excerpt,) = reading.excerpts
    assert (excerpt.tokens, excerpt.bytes_scored) == (3, 3)


def test_a_huge_file_does_not_take_the_whole_budget(tokenizer):
    documents = [document("huge.py", "x = 1\n" * 5000)]
    documents += [document(f"{i:02}.py", "y" * 50) for i in range(30)]
    reading = choose(documents, tokenizer, max_tokens=1000)
    assert reading.cap == 100
    sizes = {e.path: e.tokens for e in reading.excerpts}
    assert sum(sizes.values()) == 1000
    assert sizes.get("huge.py", 100) == 100
    # a window is always allowed, however small the budget's tenth
    assert choose(documents, tokenizer, max_tokens=100, max_seq_length=64).cap == 64
    assert choose(documents, tokenizer, max_tokens=40, max_seq_length=64).cap == 40


def test_context_is_part_of_the_budget(tmp_path):
    documents = [document(f"{i}.py", "y" * 50) for i in range(5)]
    reading = choose(documents, make_tokenizer(tmp_path), max_tokens=20)
    assert [e.tokens for e in reading.excerpts] == [15, 3]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_files(tokenizer):
    documents = [document(f"{i:02}.py", "y" * 50) for i in range(30)]
    paths = [e.path for e in choose(documents, tokenizer, max_tokens=200).excerpts]
    again = [e.path for e in choose(documents[::-1], tokenizer, max_tokens=200).excerpts]
    other = [e.path for e in choose(documents, tokenizer, max_tokens=200, seed=1).excerpts]
    assert paths == again
    assert set(paths) != set(other)
    assert len(paths) == 10  # 20 of each, since a tenth of the budget is the cap


def test_a_space_that_the_tokenizer_imagines_is_no_byte_and_what_is_not_exact_is_left_out(tmp_path):
    vocab = {"<s>": 0, "</s>": 1, "\u2581": 2, "x": 3, "\u2581x": 4}
    vocab |= {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    model = tokenizers.models.BPE(
        vocab=vocab, merges=[("\u2581", "x")], byte_fallback=True, unk_token=None
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Prepend("\u2581"),
            tokenizers.normalizers.Replace(" ", "\u2581"),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"add_bos_token": False, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    documents = [document("a.py", "x x\n한"), document("b.py", "x \u2581\n")]
    reading = choose(documents, load_tokenizer(tmp_path))
    (excerpt,) = reading.excerpts
    assert excerpt.path == "a.py"
    assert excerpt.bytes_scored == len(" x\n한".encode())  # the first token is "x"
    assert reading.not_exact == 1
    assert np.issubdtype(excerpt.sequence.dtype, np.integer)
