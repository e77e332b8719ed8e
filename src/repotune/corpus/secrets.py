"""Credentials in a source text are replaced by a placeholder that names their kind.

betterleaks finds them, with its own rules and those in ``secrets.toml``. Its Python binding only
matches patterns: the part of betterleaks that asks a service whether a key is alive is not in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import betterleaks

_RULES = str(Path(__file__).with_name("secrets.toml"))

_GUESSES = frozenset(
    {"generic-password", "generic-credential-uri", "generic-api-key", "named-secret",
     "bearer-token"}
)  # fmt: skip
"""Rules that go by the name in front of a value, not by the value's own form."""

_ROUNDS = 3
"""Taking out one secret can bring another to light, which its rule had hidden."""

_SHORT = 8
"""Shorter values are replaced as whole words only: they may be a part of something else."""

_SECRET_PART = re.compile(r"(?:secret|passphrase|key|token)(?:\.\d+)?$")
"""Of a credential's parts these are secret; user names and hosts are not."""

_TEMPLATE = re.compile(r"\{[^}]*\}|\$[{(]|%\(\w|://|^\$\w+$|^%\w+%$")
_EXPRESSION = re.compile(r"[A-Za-z_][\w.]*(?:[\[(].*)?")
_MADE_UP = re.compile(
    r"(?i)[a-z_-]*(?:pass|pwd|secret|token|key|test|dummy|sample|example|change|foo|your)[a-z_-]*"
    r"\d{0,4}\W?"
)
"""``password1`` and ``test123`` protect nothing, and are names in other people's forms."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without the secrets that were found in it."""

    text: str | None
    """None if the scan failed, or if what it found cannot be taken out for certain."""
    counts: Counter[str]
    """Kind of secret -> places where its placeholder stands."""
    values: dict[str, str] = field(repr=False)
    """Secret -> its kind. Never written anywhere."""


def find_secrets(text: str, *, words_are_names: bool) -> dict[str, str] | None:
    """Secret -> its kind for all that one scan of ``text`` finds; None if the scan fails.

    ``words_are_names`` says that a word without quotes is a name, as in most programs, and not
    a value, as in a shell or a file of settings.
    """
    # betterleaks passes over a line with this comment.
    text = text.replace("leaks:allow", "leaks allow")
    try:
        findings = betterleaks.scan_string(text, config_path=_RULES)
    except (betterleaks.BetterleaksError, OSError):
        return None
    values: dict[str, str] = {}
    for finding in findings:
        if not _is_secret(finding, words_are_names):
            continue
        values[finding.secret] = finding.rule_id
        for parts in finding.component_sets:
            for part in parts["components"]:
                if _SECRET_PART.search(part["rule_id"]):
                    values[part["match"]["value"]] = part["rule_id"]
    return {value: kind for value, kind in values.items() if value.strip()}


def redact(text: str, *, words_are_names: bool) -> Redacted:
    """Find the secrets in ``text`` and replace each, wherever in the text it stands."""
    counts: Counter[str] = Counter()
    values: dict[str, str] = {}
    for _ in range(_ROUNDS):
        found = find_secrets(text, words_are_names=words_are_names)
        if found is None:
            break
        if not found:
            return Redacted(text, counts, values)
        values |= found
        if not all(value in text for value in found):
            break
        text, replaced = replace_values(text, found)
        counts += replaced
    return Redacted(None, Counter(), values)


def replace_values(text: str, values: Mapping[str, str]) -> tuple[str, Counter[str]]:
    """``text`` with ``<SECRET:kind>`` for each of ``values`` (secret -> kind), and the counts."""
    counts: Counter[str] = Counter()

    def placeholder(match: re.Match[str]) -> str:
        kind = values[match[0]]
        counts[kind] += 1
        return f"<SECRET:{kind}>"

    pattern = "|".join(
        re.escape(value) if len(value) >= _SHORT else rf"(?<!\w){re.escape(value)}(?!\w)"
        for value in sorted(values, key=len, reverse=True)  # the longest wins
    )
    return re.sub(pattern, placeholder, text), counts


def _is_secret(finding: betterleaks.Finding, words_are_names: bool) -> bool:
    """Whether a guess of betterleaks' is more than a name, a word or a template."""
    value, rule = finding.secret, finding.rule_id
    if rule not in _GUESSES or (rule == "generic-credential-uri" and finding.confidence != "low"):
        return True
    if rule == "generic-password" and words_are_names and _EXPRESSION.fullmatch(value):
        before, _, _ = finding.match.full.rpartition(value)
        if not before.endswith(("'", '"', "`")):
            return False
    if _TEMPLATE.search(value) or _MADE_UP.fullmatch(value):
        return False
    return _looks_random(value)


def _looks_random(value: str) -> bool:
    """Letters with digits; or three of lower case, upper case, digits, signs; or wILdlY mIXed."""
    has_lower, has_upper, has_digit, has_sign = (
        re.search(one, value) is not None for one in (r"[a-z]", r"[A-Z]", r"\d", r"[^\w\s.-]")
    )
    turns = sum(one.islower() != other.islower() for one, other in pairwise(value))
    return len(value) >= 6 and (
        (has_digit and (has_lower or has_upper))
        or has_lower + has_upper + has_digit + has_sign >= 3
        or (has_lower and has_upper and 3 * turns >= len(value))
    )
