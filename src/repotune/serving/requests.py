"""A client's request -> what llama.cpp is asked, by which path, and how the client wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from repotune.serving import fields
from repotune.serving.refusal import Refusal
from repotune.serving.upstream import TOO_LONG, Upstream
from repotune.tokens import CodeTokenizer, prompt_ids

Kind: TypeAlias = Literal["completion", "infill", "chat"]

DEFAULT_NEW_TOKENS: Final = 128
COMPLETION: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
LLAMA_COMPLETION: Final = "/completion"
MARGIN: Final = 8
"""Tokens that a prompt has beside the code: BOS and those of fill in the middle."""
STEP: Final = 128
"""Tokens by which code that is too long is cut: while somebody types, the cut stays where it is,
and llama.cpp has read all but the last tokens of the prompt before."""
SNIPPET: Final = "\n\n--- snippet ---\n\n"
"""llama.cpp's, before each piece of other code."""
NO_FIM: Final = (
    "has no tokens for fill in the middle: leave the suffix out, tune a model that has them "
    "(CodeLlama, Qwen2.5-Coder, StarCoder, DeepSeek-Coder), or teach it some with --fim-tokens add."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model behind the door."""

    name: str
    """What a request calls it."""
    upstream: Upstream
    tokenizer: CodeTokenizer
    fim_names: tuple[str, str, str] | None
    """How prefix, suffix and middle tokens are written; None without fill in the middle."""
    has_chat: bool
    context: int
    """Tokens of prompt and answer together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What to ask llama.cpp."""

    kind: Kind
    model: ServedModel
    path: str
    body: dict[str, Any]
    stream: bool
    """Whether the client wants events, or one object."""
    with_usage: bool
    """Whether the last event may say how many tokens it were."""


def prepare(kind: Kind, body: Mapping[str, Any], models: Sequence[ServedModel]) -> Prepared:
    """Check a request and turn it into llama.cpp's. Raises Refusal."""
    model = _named(body.get("model"), models)
    make = {"completion": _completion, "infill": _infill, "chat": _chat}[kind]
    path, asked = make(body, model)
    stream = body.get("stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise fields.wrong("stream_options", "an object")
    return Prepared(
        kind=kind,
        model=model,
        path=path,
        body=asked,
        stream=False if stream is None else fields.flag("stream", stream),
        with_usage=bool((options or {}).get("include_usage")),
    )


def _named(name: Any, models: Sequence[ServedModel]) -> ServedModel:
    """The model of that name; where there is only one, every name means it, so that an editor's
    settings stay as they are when the base is served in the tuned one's place."""
    if name is not None:
        fields.text("model", name)
    if not name or len(models) == 1:
        return models[0]
    for model in models:
        if model.name == name:
            return model
    known = " and ".join(model.name for model in models)
    raise Refusal(404, f"There is no model {name[:80]!r} here: there are {known}.")


def _completion(body: Mapping[str, Any], model: ServedModel) -> tuple[str, dict[str, Any]]:
    fields.refuse_what_cannot_be_done(body)
    ids = _ids(body.get("prompt"), body.get("suffix"), model)
    if len(ids) >= model.context:
        raise Refusal(
            400,
            f"The prompt has {len(ids):,} tokens and the context {model.context:,}: send less "
            "code before or after the cursor.",
            TOO_LONG,
        )
    asked = fields.checked(body, fields.SAMPLING)
    new = _new_tokens(body, ("max_tokens",), model, unsaid=DEFAULT_NEW_TOKENS)
    new = min(new, model.context - len(ids))  # vLLM refuses what goes beyond
    return COMPLETION, {**asked, "prompt": ids, "max_tokens": new, "model": model.name}


def _ids(prompt: Any, suffix: Any, model: ServedModel) -> list[int]:
    """The prompt as the training would have written it, in ids: no text becomes a special one."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise Refusal(
                400, "One prompt at a time is answered here: send each in a request of its own."
            )
        prompt = prompt[0]
    after = None if suffix is None else fields.text("suffix", suffix)
    tokenizer, names = model.tokenizer, model.fim_names
    if isinstance(prompt, list):
        if after:
            raise Refusal(400, "suffix goes with a prompt that is a string, not ids.")
        check = fields.integer(0, tokenizer.vocab_size - 1)
        if not prompt:
            raise fields.wrong("prompt", "a string, or a list of ids that is not empty")
        return [check("prompt", one) for one in prompt]
    before = fields.text("prompt", prompt)
    if after and after.strip() and names is None:
        raise Refusal(400, f"{model.name} {NO_FIM}")
    if not after and names is not None:
        before, after = _read_template(before, names) or (before, None)
    ids = prompt_ids(tokenizer, before, after).tolist()
    if not ids:  # a model without BOS has to be given something
        return [tokenizer.eos_id]
    return [int(one) for one in ids]


def _read_template(prompt: str, names: tuple[str, str, str]) -> tuple[str, str] | None:
    """Prefix and suffix of a prompt that an editor has written around the cursor by itself, with
    the names of the tokens; None of any other. SentencePiece shows a space as U+2581."""
    first, second, third = (name.replace("\u2581", " ") for name in names)
    spaced = first.startswith(" ")
    written = f" {prompt}" if spaced and not prompt.startswith(" ") else prompt
    if not (written.startswith(first) and written.endswith(third)):
        return None
    parts = written[len(first) : -len(third)].split(second)
    if len(parts) != 2:
        return None
    return parts[0].removeprefix(" ") if spaced else parts[0], parts[1]


def _infill(body: Mapping[str, Any], model: ServedModel) -> tuple[str, dict[str, Any]]:
    """llama.cpp's /infill would cut the code to a part of its batch; here it is cut to the context,
    and read by the tokenizer of the training."""
    if model.fim_names is None:
        raise Refusal(400, f"{model.name} {NO_FIM}")
    asked = fields.checked(body, fields.INFILL)
    new = body.get("n_predict")
    # An editor asks for no token to have its context read beforehand.
    new = DEFAULT_NEW_TOKENS if new is None else fields.integer(-1, 2**31 - 1)("n_predict", new)
    most = model.context // 2
    new = most if new < 0 else min(new, most)
    before = asked.pop("input_prefix", "") + asked.pop("prompt", "")
    after, extra = asked.pop("input_suffix", ""), asked.pop("input_extra", [])
    ids = _around(before, after, extra, model, room=model.context - new - MARGIN)
    return LLAMA_COMPLETION, {**asked, "prompt": ids, "n_predict": new}


def _around(
    before: str, after: str, extra: Sequence[Mapping[str, str]], model: ServedModel, *, room: int
) -> list[int]:
    """At most ``room`` ids: what is nearest to the cursor, and what is left for other code, which
    stands in front, as llama.cpp's /infill puts it."""
    tokenizer, fim = model.tokenizer, model.tokenizer.fim
    assert fim is not None
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    after_ids = tokenizer.encode_continuation(after).tolist() if after.strip() else []
    after_ids = after_ids[: room // 4]
    before_ids = tokenizer.encode(before).tolist()
    left = room - len(before_ids) - len(after_ids)
    front = [*bos, *_newest(extra, tokenizer, left)] if left > 0 else bos
    if left < 0:
        before_ids = before_ids[min(_in_steps(-left), len(before_ids) - 1) :]
    if after_ids:
        return fim.prompt(front, before_ids, after_ids)
    return [*front, *before_ids] or [tokenizer.eos_id]


def _newest(extra: Sequence[Mapping[str, str]], tokenizer: CodeTokenizer, room: int) -> list[int]:
    """Other code in at most ``room`` ids, the oldest, which editors send first, left out."""
    kept: list[int] = []
    for one in reversed(extra):
        ids = tokenizer.encode(f"{SNIPPET}{one['text']}").tolist()
        over = len(kept) + len(ids) - room
        if over > 0:
            return [*ids[_in_steps(over) :], *kept]
        kept = [*ids, *kept]
    return kept


def _in_steps(over: int) -> int:
    return -(-over // STEP) * STEP


def _chat(body: Mapping[str, Any], model: ServedModel) -> tuple[str, dict[str, Any]]:
    if not model.has_chat:
        raise Refusal(
            400, f"{model.name} has no chat template, since it is no chat model: ask "
            "/v1/completions instead.",
        )  # fmt: skip
    fields.refuse_what_cannot_be_done(body)
    asked = fields.checked(body, fields.SAMPLING)
    said = fields.messages("messages", body.get("messages"))
    # What is rewritten is longer than what fills a gap, and editors do not say how long.
    names = ("max_completion_tokens", "max_tokens")
    new = _new_tokens(body, names, model, unsaid=model.context // 4)
    if body.get("n_predict") == 0:  # llama.vim has a selection read while its user writes
        new = 0
    return CHAT, {
        **asked, "messages": said, "max_tokens": new, "model": model.name,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def _new_tokens(
    body: Mapping[str, Any], names: Sequence[str], model: ServedModel, *, unsaid: int
) -> int:
    for name in names:
        if body.get(name) is not None:
            value = fields.integer(1, 2**31 - 1)(name, body[name])
            return min(int(value), model.context)
    return unsaid
