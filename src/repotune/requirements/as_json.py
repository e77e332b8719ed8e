"""The page as one JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from repotune.requirements.figures import Comparison, Requirements
from repotune.requirements.sentences import translated
from repotune.requirements.texts import Lang


def to_json(page: Requirements, lang: Lang) -> str:
    """All figures, by the names of ``figures``; sentences in ``lang``. In ASCII, so that no
    console's code page can spoil it."""
    values = asdict(page)
    values["comparisons"] = [_comparison(one, lang) for one in page.comparisons]
    return json.dumps({"lang": lang, **values}, indent=2, allow_nan=False) + "\n"


def _comparison(one: Comparison, lang: Lang) -> dict[str, Any]:
    claim = one.claim
    return {
        **asdict(claim),
        "says": claim.says and translated(claim.says, lang),
        "why": claim.why and translated(claim.why, lang),
        "ours": one.ours and asdict(one.ours),
        "verdict": one.verdict,
        "agrees": one.agrees,
    }
