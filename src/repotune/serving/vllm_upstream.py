"""Requests in llama.cpp's form, as vLLM takes them, and its answers in llama.cpp's form."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from repotune.local_http import connection_to
from repotune.serving.fields import SAMPLING
from repotune.serving.refusal import Refusal
from repotune.serving.requests import CHAT, COMPLETION, LLAMA_COMPLETION
from repotune.serving.upstream import NO_ANSWER, TOO_LONG, Asked, Upstream

PROGRAM: Final = "vLLM"
COUNT_SECONDS: Final = 30.0
"""vLLM counts a chat's tokens without its model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmUpstream(Upstream):
    """Where vLLM listens. It notices by itself when nobody listens to it any more."""

    key: str = ""
    """None is wanted: only this user can reach its socket."""
    model: str
    """What vLLM calls it."""
    context: int
    """Tokens of prompt and answer together."""

    def ask(self, path: str, body: Mapping[str, Any]) -> Asked:
        """Begin a request; nothing is sent before its events are read."""
        if path == LLAMA_COMPLETION:
            return _AskedInLlamasForm(self, body)
        if path == CHAT:
            return _AskedChat(self, body)
        return Asked(PROGRAM, self.address, path, _streamed(body), self.key)


def _streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


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


class _AskedChat(Asked):
    """A chat, whose prompt only vLLM can count: an answer that may be longer than what is left of
    the context is refused by some versions, where llama.cpp ends it there."""

    def __init__(self, upstream: VllmUpstream, body: Mapping[str, Any]) -> None:
        self._upstream, self._chat = upstream, body
        super().__init__(PROGRAM, upstream.address, CHAT, _streamed(body), upstream.key)

    def events(self) -> Iterator[dict[str, Any]]:
        """As those of any request."""
        most, left = self._chat["max_tokens"], self._upstream.context - self._prompt_tokens()
        if left < 1:
            context = self._upstream.context
            raise Refusal(
                400,
                f"The chat has {context - left:,} tokens and the context {context:,}: send less.",
                TOO_LONG,
            )
        # It writes at least one token; who asks for none has it read the prompt beforehand.
        self._body = json.dumps(
            _streamed({**self._chat, "max_tokens": max(1, min(most, left))})
        ).encode()
        for event in super().events():
            for choice in event.get("choices", ()):
                if not most and choice["delta"].get("content"):
                    choice["delta"]["content"] = ""
            yield event

    def _prompt_tokens(self) -> int:
        """Raises Refusal for messages that the model's template does not take, or if vLLM cannot
        be reached."""
        asked = {"model": self._upstream.model, "messages": self._chat["messages"]}
        connection = connection_to(self._upstream.address, COUNT_SECONDS)
        try:
            connection.request("POST", "/tokenize", json.dumps(asked), self._headers)
            response = connection.getresponse()
            content = json.loads(response.read())
            if response.status != 200:
                raise self._refusal(content)
            return int(content["count"])
        except (OSError, http.client.HTTPException, ValueError):
            raise Refusal(503, NO_ANSWER) from None
        finally:
            connection.close()
