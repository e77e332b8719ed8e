"""llama.cpp's events -> one object, for a client that did not ask for a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from repotune.serving.requests import Kind


def gathered(kind: Kind, events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The answer as llama.cpp would have given it at once; empty if there were no events."""
    return {"completion": _completion, "infill": _infill, "chat": _chat}[kind](list(events))


def _completion(events: list[dict[str, Any]]) -> dict[str, Any]:
    written = "".join(choice.get("text", "") for choice in _choices(events))
    return _whole(events, "text_completion", {"text": written, "logprobs": None})


def _chat(events: list[dict[str, Any]]) -> dict[str, Any]:
    written = "".join(choice.get("delta", {}).get("content") or "" for choice in _choices(events))
    message = {"role": "assistant", "content": written}
    return _whole(events, "chat.completion", {"message": message, "logprobs": None})


def _infill(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The last event has the timings and why it ended, or what ``response_fields`` asked for."""
    if not events:
        return {}
    last = events[-1]
    if "content" not in last:
        return last
    return {**last, "content": "".join(event.get("content", "") for event in events)}


def _choices(events: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    return (choice for event in events for choice in event.get("choices", ()))


def _whole(events: list[dict[str, Any]], name: str, said: dict[str, Any]) -> dict[str, Any]:
    if not events:
        return {}
    ends = [choice["finish_reason"] for choice in _choices(events) if choice.get("finish_reason")]
    answer: dict[str, Any] = {
        **{key: events[0].get(key) for key in ("id", "created", "model")},
        "object": name,
        "choices": [{"index": 0, **said, "finish_reason": ends[-1] if ends else "stop"}],
    }
    for event in events:
        if event.get("usage"):
            answer["usage"] = event["usage"]
    return answer
