"""What git would ignore: nested ``.gitignore`` files and ``.git/info/exclude``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

_MAX_STARS = 4
"""Matching takes time that is exponential in the stars; hardly a real pattern has more."""


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that hold inside a folder: its own, and below them those of its parents."""

    folder: str = ""
    """Relative to the root, ending in ``/`` unless it is the root itself."""
    patterns: tuple[tuple[re.Pattern[str], bool], ...] = ()
    """Of this folder's ``.gitignore``: what each matches, and whether it ignores or takes back."""
    parent: IgnoreRules | None = None

    def inside(self, folder: str, text: str) -> IgnoreRules:
        """The rules inside ``folder``, whose own ``.gitignore`` says ``text``."""
        return IgnoreRules(folder, tuple(_compile(text)), self)

    def ignores(self, path: str) -> bool:
        """Whether git ignores ``path``, given that it does not ignore the folder it lies in.

        A folder's path ends in ``/``. The innermost ``.gitignore`` with a matching pattern
        decides, and in it the last such pattern.
        """
        rules: IgnoreRules | None = self
        while rules is not None:
            relative = path[len(rules.folder) :]
            for pattern, is_ignored in reversed(rules.patterns):
                if _matches(pattern, relative):
                    return is_ignored
            rules = rules.parent
        return False


def _compile(text: str) -> list[tuple[re.Pattern[str], bool]]:
    patterns: list[tuple[re.Pattern[str], bool]] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if len(re.findall(r"\*+", line)) > _MAX_STARS:
            continue
        # "**/" means "*/", but pathspec would look for any slash, not for the path's last one.
        simple = re.sub(r"^(!?)(?:\*\*/)+$", r"\1*/", line.removesuffix("\r"))
        try:
            spec = GitIgnoreSpec.from_lines([simple])
        except ValueError:  # git passes over a pattern that makes no sense, too
            continue
        for one in spec.patterns:  # none for a comment or an empty line
            if one.regex is not None:
                patterns.append((one.regex, bool(one.include)))
    return patterns


def _matches(pattern: re.Pattern[str], path: str) -> bool:
    """Whether the pattern means ``path`` itself, as git asks, and not a folder that it lies in.

    pathspec marks the slash after a matched folder as group ``ps_d``, except for ``a/**``.
    """
    match = pattern.search(path)
    if match is None:
        return False
    if match.groupdict().get("ps_d") is not None:
        return match.end("ps_d") == len(path)
    return match.group() != path or not path.endswith("/")
