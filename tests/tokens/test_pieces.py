"""Every token of a document reaches a piece, and every piece says what it was made of."""

import numpy as np
import pytest

from repotune.tokens.pieces import Cutter

from .vocabularies import document, random_text, sample_code

DOCUMENTS = [document(f"json/{number}.py", text) for number, text in enumerate(sample_code())]
ALL = ["codellama", "qwen", "starcoder", "deepseek"]


def cut(tokenizer, documents, *, length=128, rate=1.0, seed=0):
    return Cutter(tokenizer, length, rate, seed).cut(documents)


def texts_of(tokenizer, piece, rest):
    """Prefix, middle and suffix of a piece, read back from its ids by the family's tokens.

    Suffix first, the prefix holds the middle as well. An empty prefix looks the same in both
    orders; what the document goes on with tells whether there is a space in front or not.
    """
    fim, ids = tokenizer.fim, piece.ids.tolist()
    ids = ids[tokenizer.bos_id is not None :]
    assert ids[0] == fim.prefix_id
    assert ids[-1] == fim.end_id
    suffix_at, middle_at = ids.index(fim.suffix_id), ids.index(fim.middle_id)
    suffix = tokenizer.decode(ids[suffix_at + 1 : middle_at], continuation=True)
    last = ids[middle_at + 1 : -1]
    if suffix_at == 1 and fim.spm != "never":
        together = tokenizer.decode(last)
        if rest.startswith(together + suffix):
            return together, "", suffix
    return (
        tokenizer.decode(ids[1:suffix_at]),
        tokenizer.decode(last, continuation=True),
        suffix,
    )


@pytest.mark.parametrize("family", ALL)
def test_prefix_middle_and_suffix_join_to_the_document(family, families):
    tokenizer = families[family]
    result = cut(tokenizer, DOCUMENTS)
    assert max(len(piece.ids) for piece in result.pieces) <= 128
    whole = dict.fromkeys((one.path for one in DOCUMENTS), "")
    texts = {one.path: one.text for one in DOCUMENTS}
    suffix_first = rewritten = 0
    for piece in result.pieces:
        if not piece.fim:  # one that had grown too long
            whole[piece.path] += tokenizer.decode(piece.ids, continuation=piece.place > 0)
            continue
        rest = texts[piece.path][len(whole[piece.path]) :]
        prefix, middle, suffix = texts_of(tokenizer, piece, rest)
        whole[piece.path] += prefix + middle + suffix
        bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        head = tokenizer.encode(prefix).tolist()
        tail = tokenizer.encode_continuation(suffix).tolist()
        rewritten += 1
        if prefix and not middle:
            suffix_first += 1
            if tokenizer.fim.spm == "joined":
                only_middle = tokenizer.encode_continuation(prefix).tolist()
                assert piece.ids.tolist() in (
                    tokenizer.fim.spm_document(bos, tail, head),
                    tokenizer.fim.psm(bos, [], tail, only_middle),
                )
        else:
            assert middle != ""
            inside = tokenizer.encode_continuation(middle).tolist()
            assert piece.ids.tolist() == tokenizer.fim.psm(bos, head, tail, inside)
    assert whole == texts
    assert rewritten > 0.97 * len(result.pieces)
    share = suffix_first / rewritten
    assert (0.4 < share < 0.6) if tokenizer.fim.spm != "never" else share == 0


def test_a_taught_model_sees_many_short_gaps_and_some_long_ones(taught, codellama):
    text = "".join(f"value_{number} = {number}\n" for number in range(20_000))
    pieces = cut(taught, [document("long.py", text)], length=1024, rate=1.0).pieces[:-1]
    octaves = np.log2([piece.source_tokens for piece in pieces]).astype(int)
    # 64 to 1,015 tokens, each octave half as often as the one before.
    shares = np.bincount(octaves, minlength=10)[6:10] / len(pieces)
    assert len(pieces) > 500
    assert np.abs(shares - [0.53, 0.27, 0.13, 0.07]).max() < 0.08
    # One that knows them already keeps its context.
    known = cut(codellama, [document("long.py", text)], length=1024, rate=1.0).pieces[:-1]
    assert min(piece.source_tokens for piece in known) > 1000


@pytest.mark.parametrize("rate", [0.5, 0.7])
def test_the_rate_is_kept(rate, codellama):
    documents = [document(f"{number}.py", f"x = {number}\ny = 2\n") for number in range(20_000)]
    pieces = cut(codellama, documents, rate=rate).pieces
    assert len(pieces) == 20_000
    # Three standard deviations of 20,000 draws are 0.0106 at most.
    assert abs(sum(piece.fim for piece in pieces) / len(pieces) - rate) < 0.01


@pytest.mark.parametrize("length", [16, 29, 31, 64, 200])
@pytest.mark.parametrize("family", ["llama", "starter", "codellama", "deepseek"])
def test_all_tokens_reach_a_piece_at_any_length(length, family, families, llama, starter):
    tokenizer = {**families, "llama": llama, "starter": starter}[family]
    texts = ["x", "\n", "한글🙂" * 80, "a" * 700, *(random_text(seed, 99) for seed in range(6))]
    documents = [
        document(f"{number}.py", text.replace("▁", "")) for number, text in enumerate(texts)
    ]
    result = cut(tokenizer, documents, length=length, rate=0.5)
    assert result.set_aside == {}
    assert result.tokens == sum(piece.source_tokens for piece in result.pieces)
    for one in documents:
        pieces = [piece for piece in result.pieces if piece.path == one.path]
        assert [piece.place for piece in pieces] == list(range(len(pieces)))
        text = ""
        for piece in pieces:
            assert 0 < len(piece.ids) <= length
            assert piece.ids[0] == tokenizer.bos_id or tokenizer.bos_id is None
            if piece.fim:
                text += "".join(texts_of(tokenizer, piece, one.text[len(text) :]))
            else:
                assert (piece.ids[-1] == tokenizer.eos_id) == (piece is pieces[-1])
                # Decoding each by itself shows that no character was torn.
                text += tokenizer.decode(piece.ids, continuation=piece.place > 0)
        assert text == one.text


def test_left_to_right_pieces_are_the_encoded_document(codellama):
    (one,) = DOCUMENTS[:1]
    ids = codellama.encode(one.text)
    pieces = cut(codellama, [one], rate=0.0, length=64).pieces
    inner = [piece.ids[1:] for piece in pieces]
    assert inner[-1][-1] == codellama.eos_id
    assert np.array_equal(np.concatenate(inner)[:-1], ids)
    assert {len(piece.ids) for piece in pieces[:-2]} == {64}
    assert len(pieces[-1].ids) > 8  # the end of a document is not alone


def test_what_does_not_come_back_is_set_aside_with_its_tokens(codellama):
    bad = document("bar.py", "bar = '\u2581'\n")
    result = cut(codellama, [DOCUMENTS[0], bad])
    assert list(result.set_aside) == ["bar.py"]
    assert "U+2581" in result.set_aside["bar.py"]
    assert {piece.path for piece in result.pieces} == {DOCUMENTS[0].path}
    lost = result.tokens - sum(piece.source_tokens for piece in result.pieces)
    assert lost == len(codellama.encode(bad.text))


def test_neighbours_and_order_change_nothing(codellama):
    together = cut(codellama, DOCUMENTS, rate=0.5).pieces
    alone = [piece for one in DOCUMENTS for piece in cut(codellama, [one], rate=0.5).pieces]
    assert [piece.ids.tolist() for piece in together] == [piece.ids.tolist() for piece in alone]
    other = cut(codellama, DOCUMENTS, rate=0.5, seed=1).pieces
    assert [piece.fim for piece in together] != [piece.fim for piece in other][: len(together)]
