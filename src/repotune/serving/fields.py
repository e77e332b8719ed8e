"""What a request may say: each field's check, and the bodies that llama.cpp is sent for it.

What is not named here is not passed on, so that llama.cpp only gets values that it can use. What
would change the answer's meaning, and cannot be done, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from repotune.serving.refusal import Refusal

Check: TypeAlias = Callable[[str, Any], Any]
"""(name, value) -> the value to pass on. Raises Refusal."""

MOST_STOPS: Final = 32
MOST_PIECES: Final = 256
ROLES: Final = ("system", "user", "assistant")
SAMPLERS: Final = ("top_k", "top_p", "min_p", "temperature", "infill", "typ_p", "penalties")


def wrong(name: str, wanted: str) -> Refusal:
    """A field that is not what it has to be."""
    return Refusal(400, f"{name} must be {wanted}.")


def text(name: str, value: Any) -> str:
    """A string that can be written in UTF-8."""
    if not isinstance(value, str):
        raise wrong(name, "a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise wrong(name, "valid Unicode, without half of a surrogate pair") from None
    return value


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong(name, "true or false")
    return value


def integer(low: int, high: int) -> Check:
    """A whole number between two, both allowed."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, f"a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """A number between two, both allowed."""

    def check(name: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # A huge whole number has no float, but is compared all the same.
        if not is_number or not low <= value <= high or not math.isfinite(value):
            raise wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def stops(name: str, value: Any) -> list[str]:
    """One string or a few; empty ones, which would stop at once, are left out."""
    values = value if isinstance(value, list) else [value]
    if len(values) > MOST_STOPS:
        raise wrong(name, f"at most {MOST_STOPS} strings")
    return [one for one in (text(name, one) for one in values) if one]


def samplers(name: str, value: Any) -> list[str]:
    """The order of llama.cpp's samplers; unknown ones are left out."""
    if not isinstance(value, list) or len(value) > MOST_STOPS:
        raise wrong(name, "a list of names")
    return [one for one in value if one in SAMPLERS]


def names(name: str, value: Any) -> list[str]:
    """What of llama.cpp's answer is wanted, a path of keys each."""
    if not isinstance(value, list) or len(value) > MOST_STOPS:
        raise wrong(name, f"a list of at most {MOST_STOPS} strings")
    return [text(name, one) for one in value]


def pieces(name: str, value: Any) -> list[dict[str, str]]:
    """llama.cpp's ``input_extra``: other code that the editor sends along."""
    if not isinstance(value, list) or len(value) > MOST_PIECES:
        raise wrong(name, f"a list of at most {MOST_PIECES} objects")
    for one in value:
        if not isinstance(one, dict):
            raise wrong(name, "a list of objects with text and filename")
    return [
        {
            "text": text(f"{name}.text", one.get("text", "")),
            "filename": text(f"{name}.filename", one.get("filename", "")),
        }
        for one in value
    ]


def messages(name: str, value: Any) -> list[dict[str, str]]:
    """OpenAI's messages, in text."""
    if not isinstance(value, list) or not 0 < len(value) <= MOST_PIECES:
        raise wrong(name, f"a list of 1 to {MOST_PIECES} messages")
    return [_message(name, one) for one in value]


def _message(name: str, message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise wrong(f"{name}.role", f"one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        parts = [one.get("text") if isinstance(one, dict) else None for one in content]
        content = "".join(text(f"{name}.content.text", part) for part in parts)
    return {"role": message["role"], "content": text(f"{name}.content", content)}


SAMPLING: Final[Mapping[str, Check]] = {
    "temperature": number(0, 10),
    "top_p": number(0, 1),
    "min_p": number(0, 1),
    "top_k": integer(0, 10**6),
    "seed": integer(-1, 2**32 - 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "stop": stops,
}
INFILL: Final[Mapping[str, Check]] = {
    **SAMPLING,
    "input_prefix": text,
    "input_suffix": text,
    "input_extra": pieces,
    "prompt": text,
    "n_indent": integer(0, 1000),
    "samplers": samplers,
    "response_fields": names,
    "cache_prompt": flag,
    "t_max_prompt_ms": integer(0, 10**7),
    "t_max_predict_ms": integer(0, 10**7),
}


def checked(body: Mapping[str, Any], fields: Mapping[str, Check]) -> dict[str, Any]:
    """The fields that the request has and llama.cpp is sent; null is as good as absent."""
    return {
        name: check(name, body[name])
        for name, check in fields.items()
        if body.get(name) is not None
    }


def refuse_what_cannot_be_done(body: Mapping[str, Any]) -> None:
    """Raises Refusal for a field of OpenAI's that asks for another kind of answer."""
    for name, allowed in {"n": 1, "best_of": 1, "echo": False}.items():
        if body.get(name) not in (None, allowed):
            raise Refusal(400, f"{name} is not supported here: leave it out.")
    for name in ("logprobs", "tools", "response_format", "logit_bias"):
        if body.get(name):
            raise Refusal(400, f"{name} is not supported here: leave it out.")
