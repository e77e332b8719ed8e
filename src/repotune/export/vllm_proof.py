"""Ask vLLM what it computes from an export, and compare it with our decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from repotune.export.passages import CODE, Passage
from repotune.export.proof import compared_by_likely
from repotune.llama_cpp import Answer
from repotune.records import Proof, Shape
from repotune.tokens import CodeTokenizer
from repotune.vllm import LIKELY, VllmServer

BOUNDS: Final = (0.08, 0.04)
"""Of ``Proof.drift``, and of the loss: vLLM computes in 16 bits. On the starter, merged into fp16:
0.0064 and 0.0003."""
NAME: Final = "tuned"
CONTEXT: Final = 512
"""Tokens; the fixed code has fewer in any vocabulary."""


def ask_vllm(server: VllmServer, name: str, passages: Sequence[Passage]) -> Proof:
    """What ``server`` expects after each token of the passages in its model ``name``.

    Raises ExportError if it does not answer.
    """
    asked: list[tuple[Passage, int]] = []
    answers: list[Answer] = []
    for passage in passages:
        said = server.post(
            "/v1/completions",
            {
                "model": name,
                "prompt": passage.ids.tolist(),
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": LIKELY,
            },
        )
        # The first token is expected by nothing; the others are, and each by those before it.
        for at, expected in enumerate(said["choices"][0]["prompt_logprobs"][1:]):
            asked.append((passage, at))
            answers.append(_answer(expected))
    return compared_by_likely(f"vLLM {server.version}", asked, answers, BOUNDS)


def ask_vllm_once(
    folder: Path, shape: Shape, passages: Sequence[Passage], tokenizer: CodeTokenizer, *,
    program: Path, scratch: Path,
) -> tuple[Proof, str | None]:  # fmt: skip
    """Let ``program`` load the model in ``folder``, ask it, and end it: the proof, and a sentence
    if it reads code as other tokens than the model was trained on.

    ``scratch`` is an existing folder for its log. Raises ExportError if vLLM does not load it.
    """
    context = min(CONTEXT, shape.max_position_embeddings)
    server = VllmServer(
        program, folder, name=NAME, context=context, slots=1,
        cached_token_bytes=shape.cached_token_bytes, compiled=False, scratch=scratch,
    )  # fmt: skip
    with server:
        other = why_vllm_reads_other_tokens(server, NAME, tokenizer)
        return ask_vllm(server, NAME, passages), other


def why_vllm_reads_other_tokens(
    server: VllmServer, name: str, tokenizer: CodeTokenizer
) -> str | None:
    """A sentence if vLLM reads ``CODE`` as other tokens than the model was trained on."""
    theirs = [
        server.post(
            "/tokenize", {"model": name, "prompt": code, "add_special_tokens": False}
        )["tokens"]
        for code in CODE
    ]  # fmt: skip
    ours = tokenizer.encode_lists(CODE)
    wrong = sum(their != our for their, our in zip(theirs, ours, strict=True))
    if not wrong:
        return None
    return (
        f"vLLM reads {wrong} of {len(CODE)} pieces of code as other tokens than this model was "
        "trained on, a defect of transformers' tokenizer: send it ids, as `repotune serve` does."
    )


def _answer(expected: dict[str, Any]) -> Answer:
    """The likely tokens of one place; the token that really follows is among them in any case."""
    best = min(expected, key=lambda token: expected[token]["rank"])
    likely = {int(token): float(one["logprob"]) for token, one in expected.items()}
    return Answer(ids=[int(best)], likely=likely)
