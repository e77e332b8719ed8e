"""Requests in llama.cpp's form, as vLLM takes them, and its answers in llama.cpp's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from repotune.serving.fields import SAMPLING
from repotune.serving.requests import COMPLETION, LLAMA_COMPLETION
from repotune.serving.upstream import Asked, Upstream

PROGRAM: Final = "vLLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmUpstream(Upstream):
    """Where vLLM listens. It notices by itself when nobody listens to it any more."""

    key: str = ""
    """None is wanted: only this user can reach its socket."""
    model: str
    """What vLLM calls it."""

    def ask(self, path: str, body: Mapping[str, Any]) -> Asked:
        """Begin a request; nothing is sent before its events are read."""
        if path == LLAMA_COMPLETION:
            return _AskedInLlamasForm(self, body)
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        return Asked(PROGRAM, self.address, path, asked, self.key)


class _AskedInLlamasForm(Asked):
    """llama.cpp's own ``/completion``, which vLLM has not, through OpenAI's."""

    def __init__(self, upstream: VllmUpstream, body: Mapping[str, Any]) -> None:
        new = body["n_predict"]
        asked = {name: body[name] for name in SAMPLING if name in body}
        asked |= {"model": upstream.model, "prompt": body["prompt"], "stream": True}
        # It writes at least one token; who asks for none has it read the prompt beforehand.
        asked["max_tokens"] = max(1, new)
        super().__init__(PROGRAM, upstream.address, COMPLETION, asked, upstream.key)
        self._keeps_text = new > 0

    def events(self) -> Iterator[dict[str, Any]]:
        """llama.cpp's: ``content`` and ``stop``."""
        for event in super().events():
            for choice in event.get("choices", ()):
                text = choice["text"] if self._keeps_text else ""
                yield {"content": text, "stop": choice["finish_reason"] is not None}
