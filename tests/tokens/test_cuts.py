"""Middles are never empty, and lie where a person's cursor would."""

from random import Random

from repotune.tokens.cuts import choose_middle

from .vocabularies import random_text, sample_code


def test_a_middle_is_inside_the_text_and_not_empty():
    texts = [*sample_code(), *(random_text(seed) for seed in range(20))]
    texts += ["x", "\n", "\n\n\n", "   \n \t", "한", "a\nb"]
    for number, text in enumerate(texts):
        for seed in range(20):
            start, end = choose_middle(text, Random(f"{number} {seed}"))
            assert 0 <= start < end <= len(text)


def test_an_empty_text_has_an_empty_middle():
    assert choose_middle("", Random(1)) == (0, 0)


def test_cuts_follow_lines_in_the_shares_that_were_chosen():
    text = max(sample_code(), key=len)
    random = Random(0)
    line_ends = line_starts = several = characters = 0
    for _ in range(4000):
        start, end = choose_middle(text, random)
        middle = text[start:end]
        assert middle.strip() or "\n" not in middle or middle.isspace()
        line_ends += end == len(text) or text[end] == "\n"
        line_starts += not text[text.rfind("\n", 0, start) + 1 : start].strip()
        several += "\n" in middle
        characters += len(middle)
    # 40 % spans and 40 % cursors end with a line, and of the random 20 % some 5 % do by chance.
    assert 0.79 < line_ends / 4000 < 0.85
    # An end is seen often: with random cuts of any two places it were a ninth of the text.
    assert characters / 4000 < len(text) / 12
    # Spans begin where the code of a line does; cursors and random cuts sometimes.
    assert 0.40 < line_starts / 4000 < 0.62
    # Two of three end on their line, as most of what an editor asks for.
    assert 0.25 < several / 4000 < 0.4


def test_the_generator_decides():
    text = sample_code()[0]
    assert choose_middle(text, Random(5)) == choose_middle(text, Random(5))
    assert len({choose_middle(text, Random(seed)) for seed in range(50)}) > 40
