"""Bytes of a source file to text: UTF-8 if it is, else what it says, else what it looks like."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

_BOMS = (
    # UTF-32's first: its little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_LEGACY = (
    "cp949",  # EUC-KR and all that Windows adds to it
    "euc_jp",
    "cp932",  # Shift-JIS and all that Windows adds to it
    "gb18030",
    "big5",
    "cp1251",
    "cp1252",
    "latin_1",
)
"""Without a mark, these are tried; at equal plausibility the first one wins."""

_KOREAN = re.compile(rb"[\xa1-\xa3\xb0-\xc8][\xa1-\xfe]")
_KOREAN_WORD = re.compile(rb"(?:[\xb0-\xc8][\xa1-\xfe]){2}")
"""Common Hangul and punctuation of KS X 1001, and two syllables in a row."""

_DECLARED = re.compile(rb"coding[:=]\s*[\"']?([\w.-]+)")
"""PEP 263's cookie; the declaration of XML looks the same."""

_DECLARABLE = {name: name for name in (*_LEGACY, "iso8859_15", "koi8_r")} | {
    "iso8859_1": "latin_1",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}
"""Codec that a file names -> codec to read it with: the superset that people use by that name."""

_BINARY_HEAD_BYTES = 8192
"""git looks for a NUL in the first 8,000 bytes."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file's text with ``\\n`` line ends and without a byte-order mark."""

    text: str
    encoding: str
    """Python's name of it."""


def decode(content: bytes) -> Decoded | None:
    """The text in ``content``, or None if it is in no encoding that we know."""
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            return _strictly(content[len(bom) :], encoding)
    decoded = _strictly(content, "utf-8")
    if decoded is None and (declared := _declared(content)) is not None:
        decoded = _strictly(content, declared)
    if decoded is None and _is_korean(content):
        decoded = _strictly(content, "cp949")
    if decoded is None:
        best = from_bytes(content, cp_isolation=list(_LEGACY)).best()
        decoded = None if best is None else _strictly(content, best.encoding)
    return decoded


def is_binary(content: bytes) -> bool:
    """Whether ``content`` is no text: a NUL near its start and no mark of UTF-16 or UTF-32."""
    if content.startswith(tuple(bom for bom, _ in _BOMS)):
        return False
    return b"\0" in content[:_BINARY_HEAD_BYTES]


def _strictly(content: bytes, encoding: str) -> Decoded | None:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    return Decoded(text.replace("\r\n", "\n").replace("\r", "\n"), encoding)


def _is_korean(content: bytes) -> bool:
    """Whether all that is not ASCII is common Hangul.

    A comment of two syllables is too little for a guess by frequencies, and what its bytes mean
    in other encodings hardly ever stands in a text.
    """
    return _KOREAN_WORD.search(content) is not None and _KOREAN.sub(b"", content).isascii()


def _declared(content: bytes) -> str | None:
    match = _DECLARED.search(b"\n".join(content[:1024].split(b"\n")[:2]))
    if match is None:
        return None
    try:
        # The lookup knows all spellings; the list keeps out rot13 and the like.
        name = codecs.lookup(match[1].decode("ascii")).name
    except LookupError:
        return None
    return _DECLARABLE.get(name.replace("-", "_"))
