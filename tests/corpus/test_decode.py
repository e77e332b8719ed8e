"""Bytes of many encodings become the text that was meant."""

import codecs
import random

import pytest

from repotune.corpus.decode import decode, is_binary

PROGRAM = 'def f(x):\n    # %s\n    return x + 1\n\n\nclass Point:\n    """%s"""\n'
KOREAN = "두 수를 더한 값을 반환한다"


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        (KOREAN, "utf-8", "utf-8"),
        (KOREAN, "cp949", "cp949"),
        (KOREAN, "euc_kr", "cp949"),
        ("똠방각하와 펲시맨이 주석을 읽는다", "cp949", "cp949"),  # beyond EUC-KR
        ("안녕", "cp949", "cp949"),  # too short for statistics
        ("값을 반환, 끝", "euc_kr", "cp949"),
        ("これは日本語のコメントです", "euc_jp", "euc_jp"),
        ("これは日本語のコメントです", "cp932", "cp932"),
        ("这个函数返回两个数的和，没有别的作用", "gb18030", "gb18030"),
        ("возвращает сумму двух чисел", "cp1251", "cp1251"),
        ("François Müller, naïve café, Straße", "cp1252", "cp1252"),
        ("Ação, coração e pão: não é à toa", "latin_1", "cp1252"),
    ],
)
def test_text_in_a_legacy_encoding_is_read_as_it_was_meant(text, encoding, found) -> None:
    program = PROGRAM % (text, text)
    decoded = decode(program.encode(encoding))
    assert decoded is not None
    assert (decoded.text, decoded.encoding) == (program, found)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_byte_order_mark_decides_and_is_no_part_of_the_text(mark, encoding) -> None:
    content = mark + f"x = '{KOREAN}'\r\n".encode(encoding)
    decoded = decode(content)
    assert decoded is not None
    assert (decoded.text, decoded.encoding) == (f"x = '{KOREAN}'\n", encoding)
    assert not is_binary(content)


def test_what_a_file_declares_goes_before_a_guess() -> None:
    # In Shift-JIS and in Latin-1 these bytes are text, too.
    content = "# -*- coding: iso-8859-15 -*-\nprice = '5 €'\n".encode("iso8859_15")
    decoded = decode(content)
    assert decoded is not None
    assert (decoded.text.splitlines()[1], decoded.encoding) == ("price = '5 €'", "iso8859_15")
    # but only an encoding of text is believed
    rot = decode(b"# coding: rot13\nname = '\xe9t\xe9'\n")
    assert rot is None or "name" in rot.text


@pytest.mark.parametrize("content", [b"a\r\nb\rc\n", b"a\nb\r\nc\n"])
def test_line_ends_become_one_kind(content) -> None:
    decoded = decode(content)
    assert decoded is not None
    assert decoded.text == "a\nb\nc\n"


def test_no_bytes_at_all_make_it_fail() -> None:
    rng = random.Random(0)
    for size in (0, 1, 2, 3, 7, 64, 1000):
        for _ in range(50):
            content = rng.randbytes(size)
            decoded = decode(content)
            if decoded is not None:
                assert "\0" not in decoded.text
                decoded.text.encode("utf-8")  # no half of a surrogate pair


def test_a_null_byte_means_binary_early_and_undecodable_late() -> None:
    assert is_binary(b"\x7fELF\0\0")
    late = b"x = 1\n" * 2000 + b"\0"
    assert not is_binary(late)
    assert decode(late) is None
    assert decode(codecs.BOM_UTF16_LE + b"a") is None  # half a character
