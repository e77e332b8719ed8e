"""What is written after a prompt, by models of which every next token is known."""

import numpy as np
import pytest

from repotune.evaluation.continuation import continuation, fitted_prompt
from repotune.tokens import prompt_ids

from .tiny import BOS, BYTES, EOS, FIM, Bigrams, chain, make_tokenizer

LINE_END, JOINED = BYTES + ord("\n"), BYTES + 256  # "\n " as one token


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), merges=[("\n", " ")])


def write(decoder, tokenizer, text, *, limit=20, adapted=False):
    return continuation(
        decoder,
        tokenizer,
        prompt_ids(tokenizer, text, None),
        max_new_tokens=limit,
        finished=lambda text: "\n" in text,
        adapted=adapted,
    )


def test_the_last_token_is_written_again_where_it_joins_what_follows(tokenizer, tmp_path):
    # After ":" comes the line end with its indentation; after a line end alone, "z".
    table = chain(" yes", "s\n", "\nz")
    table |= {BYTES + ord(":"): JOINED, JOINED: BYTES + ord("y")}
    decoder = Bigrams(base=table, tuned={}).decoder(tmp_path)
    assert write(decoder, tokenizer, "if x:\n") == " yes\n"


def test_the_whole_prompt_counts_where_the_model_would_write_something_else(tokenizer, tmp_path):
    decoder = Bigrams(base=chain(":q", "\nzw\n"), tuned={}).decoder(tmp_path)
    assert write(decoder, tokenizer, "if x:\n") == "zw\n"


def test_it_ends_at_a_stop_id_at_what_is_finished_and_at_the_limit(tokenizer, tmp_path):
    table = chain("(abc", "[ijk\nlm", "{x", "xx")
    table[BYTES + ord("c")] = EOS
    decoder = Bigrams(base=table, tuned={}).decoder(tmp_path)
    assert write(decoder, tokenizer, "-(") == "abc"
    assert write(decoder, tokenizer, "-[") == "ijk\n"
    assert write(decoder, tokenizer, "-{", limit=7) == "x" * 7


def test_a_character_that_the_limit_cuts_is_left_out(tokenizer, tmp_path):
    one, two, three = "한".encode()
    table = chain("(x")
    table |= {BYTES + ord("x"): BYTES + one, BYTES + one: BYTES + two, BYTES + two: BYTES + three}
    decoder = Bigrams(base=table, tuned={}).decoder(tmp_path)
    assert write(decoder, tokenizer, "-(", limit=4) == "x한"
    assert write(decoder, tokenizer, "-(", limit=3) == "x"


def test_base_and_tuned_write_from_the_same_prompt(tokenizer, tmp_path):
    tuned = {BYTES + ord("c"): BYTES + ord("d")}
    decoder = Bigrams(base=chain("(cat\n", "dog\n"), tuned=tuned).decoder(tmp_path)
    assert write(decoder, tokenizer, "-(") == "cat\n"
    assert write(decoder, tokenizer, "-(", adapted=True) == "cog\n"


def test_a_long_prompt_loses_its_beginning_but_not_its_bos(tmp_path):
    plain = make_tokenizer(tmp_path / "plain")
    with_bos = make_tokenizer(tmp_path / "bos", bos=True)
    text = "".join(map(chr, range(32, 127)))
    ids = plain.encode(text)
    np.testing.assert_array_equal(fitted_prompt(plain, text, None, limit=95), ids)
    np.testing.assert_array_equal(fitted_prompt(plain, text, None, limit=10), ids[-10:])
    np.testing.assert_array_equal(fitted_prompt(with_bos, text, None, limit=10), [BOS, *ids[-9:]])


def test_around_a_gap_the_farthest_lines_go_first(tmp_path):
    tokenizer = make_tokenizer(tmp_path, fim=True)
    before = "".join(f"before {i:02}\n" for i in range(50)) + "here = "
    after = "".join(f"\nafter {i:02}" for i in range(50))
    whole = fitted_prompt(tokenizer, before, after, limit=10_000)
    np.testing.assert_array_equal(whole, prompt_ids(tokenizer, before, after))
    ids = fitted_prompt(tokenizer, before, after, limit=200)
    assert 150 < len(ids) <= 200
    assert [ids[0], ids[-1]] == [FIM[0], FIM[2]]
    gap = ids.tolist().index(FIM[1])
    kept_before, kept_after = tokenizer.decode(ids[:gap]), tokenizer.decode(ids[gap:])
    assert before.endswith(kept_before)
    assert kept_before.startswith("before ")
    assert after.startswith(kept_after)
    assert kept_after.endswith("\n")
    assert len(kept_after) < len(kept_before) / 2


def test_one_endless_line_is_cut_inside(tmp_path):
    tokenizer = make_tokenizer(tmp_path, fim=True)
    ids = fitted_prompt(tokenizer, "가" * 300, "나" * 300, limit=100)
    text = tokenizer.decode(ids)
    assert 80 <= len(ids) <= 100
    assert set(text) == {"가", "나"}
