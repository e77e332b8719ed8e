"""Ask the real other side what it computes from an export, and compare it with our decoder.

``transformers`` and ``peft`` give all logits; llama.cpp, and vLLM in ``vllm_proof``, the
log-probabilities of the tokens that they find most likely. Each is optional: where it is not
installed nothing is asked.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from repotune.errors import ExportError
from repotune.export.passages import CODE, GAP, Passage
from repotune.llama_cpp import Answer, Question, Text, ask, version
from repotune.model.shape import is_gguf
from repotune.records import IntArray, Proof, Quantisation
from repotune.tokens import CodeTokenizer

LOGITS_BOUNDS: Final = {torch.float32: (0.02, 0.01), torch.bfloat16: (0.08, 0.04)}
"""For transformers, by the type that both sides compute in: of ``Proof.drift``, and of the loss.
On the starter merged into fp16: 0.0006 and 0.0001."""
LLAMA_CPP_BOUNDS: Final[Mapping[Quantisation, tuple[float, float]]] = {
    "f16": (0.02, 0.01),
    "q8_0": (0.15, 0.03),
    "q4_k_m": (0.45, 0.12),
}
"""For llama.cpp. On the starter, small and so hurt most by few bits: 0.004, 0.10 and 0.35 for the
drift; 0.0004, 0.015 and 0.09 for the loss on so few positions."""
ADAPTER_SHARE: Final = (0.5, 1.5)
"""Of ``Proof.adapter_share``. On the starter with an adapter of 8 steps, and with 3/10 and 1/10 of
it: 0.94 to 1.13 where it was looked for, and -0.06 to 0.03 in files without it."""
SEEN: Final = 0.15
"""An adapter that changes less than this part of the drift is not looked for in it."""
ASKED_PER_PASSAGE: Final = 32
"""The last positions of a passage are asked for: each costs llama.cpp one token."""
COMPARED: Final = 50
"""So many of llama.cpp's most likely tokens count: beyond them is noise that nobody sees."""
EXTRAS: Final = {"transformers": "check", "peft": "check", "xllamacpp": "gguf"}
"""Package -> the extra of this project that brings it."""


def how_to_check(*packages: str) -> str | None:
    """None if all are installed, else a sentence with the command that installs them."""
    missing = [name for name in packages if find_spec(name) is None]
    if not missing:
        return None
    return (
        f"{' and '.join(missing)} did not read it, since that is not installed here: "
        f'run `pip install "repotune[{EXTRAS[missing[0]]}]"` and export again.'
    )


def ask_transformers(
    model: Path, passages: Sequence[Passage], *, dtype: torch.dtype, adapter: Path | None = None
) -> Proof:
    """Load ``model`` (a folder or a GGUF file), with ``adapter`` by PEFT, and compare all logits.

    Raises ExportError if they do not load it.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    place = (model.parent, {"gguf_file": model.name}) if is_gguf(model) else (model, {})
    try:
        with _quiet():
            theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
                place[0], dtype=dtype, local_files_only=True, **place[1]
            )
            if adapter is not None:
                import peft

                rows = passages[0].logits_TV.shape[1]
                if theirs.get_input_embeddings().num_embeddings < rows:
                    theirs.resize_token_embeddings(rows)  # for tokens that the base has not

                theirs = peft.PeftModel.from_pretrained(
                    theirs, adapter, local_files_only=True, torch_device="cpu"
                )
    except Exception as error:  # theirs are of many kinds
        raise ExportError(
            f"{_names(adapter)} does not load the export ({error}): report it, with this message."
        ) from None
    logits = [_their_logits(theirs.eval(), passage.ids) for passage in passages]
    return _compared(_names(adapter), passages, logits, LOGITS_BOUNDS[dtype])


def ask_llama_cpp(
    model: Path, passages: Sequence[Passage], tokenizer: CodeTokenizer,
    metadata: Mapping[str, Any], *, quantisation: Quantisation, dtype: torch.dtype, scratch: Path,
) -> Proof:  # fmt: skip
    """Load the GGUF file ``model`` in llama.cpp and compare probabilities and token ids.

    ``metadata`` is what the file says of its tokenizer, ``dtype`` what our decoder computed the
    passages in, ``scratch`` an existing folder. Raises ExportError if llama.cpp does not load the
    file, or makes other ids of the same text.
    """
    texts, wanted = tokenizer_questions(tokenizer, metadata)
    asked = [(passage, at) for passage in passages for at in _asked(passage)]
    questions = [Question(ids=passage.ids[: at + 1].tolist()) for passage, at in asked]
    answers = ask(model, questions, texts, scratch=scratch)
    for text, ids, ours in zip(texts, answers.texts, wanted, strict=True):
        if ids != ours:
            raise ExportError(
                f"llama.cpp reads {text.text[:40]!r}… as other tokens than this model was trained "
                f"on ({_first_difference(ids, ours)}): export to merged instead, and report it."
            )
    both = zip(LLAMA_CPP_BOUNDS[quantisation], LOGITS_BOUNDS[dtype], strict=True)
    bounds = tuple(max(pair) for pair in both)  # whichever of the two rounds more
    by = f"llama.cpp (xllamacpp {version()})"
    return compared_by_likely(by, asked, answers.questions, bounds)


def tokenizer_questions(
    tokenizer: CodeTokenizer, metadata: Mapping[str, Any]
) -> tuple[list[Text], list[list[int]]]:
    """Texts, and their ids as llama.cpp must find them: code, and a prompt around a gap."""
    spaced = metadata.get("tokenizer.ggml.add_space_prefix", True)
    texts = [Text(text=code, special=False) for code in CODE]
    wanted = tokenizer.encode_lists(CODE, continuation=not spaced)
    if tokenizer.fim is not None:
        tokens, fim = metadata["tokenizer.ggml.tokens"], tokenizer.fim
        before, after = tokenizer.encode_lists(GAP, continuation=not spaced)
        texts.append(Text(text=fim.text(tokens, *GAP), special=True))
        wanted.append(fim.prompt([], before, after))
    return texts, wanted


def why_other_tokens(folder: Path, tokenizer: CodeTokenizer) -> str | None:
    """A sentence if transformers reads ``CODE`` as other tokens than the model was trained on.

    That is a defect of its tokenizer (CodeLlama's has some), not of the export.
    """
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    wrong = [
        code for code, ids in zip(CODE, tokenizer.encode_lists(CODE), strict=True)
        if theirs.encode(code, add_special_tokens=False) != ids
    ]  # fmt: skip
    if not wrong:
        return None
    return (
        f"transformers' tokenizer reads {len(wrong)} of {len(CODE)} pieces of code as other tokens "
        "than this model was trained on, a defect of its own: export to gguf if you can."
    )


def refuse_drift(proof: Proof) -> None:
    """Raises ExportError if the other side computes something else, or lacks the adapter."""
    near = abs(proof.their_nats - proof.nats) <= proof.loss_bound * proof.nats
    if not (near and proof.drift <= proof.drift_bound):
        raise ExportError(
            f"{proof.by} computes something else from it than our decoder: the logits differ by "
            f"{proof.drift:.2%} (relative L2; {proof.drift_bound:.0%} is the bound), the same "
            f"token is most likely at {proof.same_token:.0%} of {proof.positions} positions, and "
            f"the loss is {proof.their_nats:.3f} instead of {proof.nats:.3f} nats a token "
            f"({proof.loss_bound:.0%} is the bound): it is not handed over; take more bits, or "
            "report it with these numbers."
        )
    low, high = ADAPTER_SHARE
    if proof.adapter_share is not None and not low <= proof.adapter_share <= high:
        raise ExportError(
            f"{proof.by} finds {proof.adapter_share:.0%} of what the adapter changes in it "
            f"({low:.0%} to {high:.0%} are the bounds): it is not handed over; take more bits, or "
            "report it with this number."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries' own bars and warnings are not for who exports."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _names(adapter: Path | None) -> str:
    name = f"transformers {metadata.version('transformers')}"
    return name if adapter is None else f"peft {metadata.version('peft')} on {name}"


@torch.no_grad()
def _their_logits(model: Any, ids: IntArray) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor(ids)[None]).logits[0].float()
    return logits


def _compared(
    by: str, passages: Sequence[Passage], theirs: Sequence[Tensor], bounds: tuple[float, float]
) -> Proof:
    ours_NV = torch.cat([passage.logits_TV[:-1] for passage in passages])
    base_NV = torch.cat([passage.base_TV[:-1] for passage in passages])
    theirs_NV = torch.cat([logits_TV[:-1] for logits_TV in theirs])
    labels_N = torch.cat([torch.tensor(passage.ids[1:]) for passage in passages])
    return Proof(
        by=by,
        positions=len(labels_N),
        drift=float((theirs_NV - ours_NV).norm() / ours_NV.norm()),
        drift_bound=bounds[0],
        loss_bound=bounds[1],
        same_token=float((ours_NV.argmax(1) == theirs_NV.argmax(1)).float().mean()),
        nats=float(functional.cross_entropy(ours_NV, labels_N)),
        their_nats=float(functional.cross_entropy(theirs_NV, labels_N)),
        adapter_share=_adapter_share(theirs_NV, ours_NV, base_NV),
    )


def compared_by_likely(
    by: str, asked: Sequence[tuple[Passage, int]], answers: Sequence[Answer],
    bounds: tuple[float, ...],
) -> Proof:  # fmt: skip
    """The proof from log-probabilities of the most likely tokens after ``asked`` positions.

    The spread of our own log-probabilities is what their distance is measured against; the loss is
    that of the positions at which they name the token that really follows.
    """
    likely: list[Tensor] = []
    centred: list[Tensor] = []
    nats = their_nats = 0.0
    same = with_loss = 0
    for (passage, at), answer in zip(asked, answers, strict=True):
        if not answer.likely:
            continue
        row_V = functional.log_softmax(passage.logits_TV[at], 0)
        without_V = functional.log_softmax(passage.base_TV[at], 0)
        label = int(passage.ids[at + 1])
        best = sorted(answer.likely.items(), key=lambda item: -item[1])[:COMPARED]
        tokens = [token for token, _ in best]
        theirs = torch.tensor([value for _, value in best])
        likely.append(torch.stack([theirs, row_V[tokens], without_V[tokens]]))
        centred.append(row_V[tokens] - row_V[tokens].mean())
        same += answer.ids[0] == int(row_V.argmax())
        if label in answer.likely:
            with_loss += 1
            nats -= float(row_V[label])
            their_nats -= answer.likely[label]
    theirs_N, ours_N, base_N = torch.cat(likely, 1) if likely else torch.zeros(3, 0)
    spread = float(torch.cat(centred).norm()) if centred else 0.0
    return Proof(
        by=by,
        positions=len(likely),
        drift=float((theirs_N - ours_N).norm()) / spread if spread else math.inf,
        drift_bound=bounds[0],
        same_token=same / max(1, len(likely)),
        nats=nats / max(1, with_loss),
        their_nats=their_nats / max(1, with_loss),
        loss_bound=bounds[1],
        adapter_share=_adapter_share(theirs_N, ours_N, base_N),
    )


def _adapter_share(theirs: Tensor, ours: Tensor, base: Tensor) -> float | None:
    """The part of ``theirs - base`` that lies along what the adapter changes, ``ours - base``.

    Drift points in all directions, so most of it falls out of this, and even few bits leave it near
    1, where the distance alone could not tell a weak adapter from none. None if the change is less
    than ``SEEN`` of the drift.
    """
    change = ours - base
    if not float(change.norm()) > SEEN * float((theirs - ours).norm()):
        return None
    return float(((theirs - base) * change).sum() / change.square().sum())


def _asked(passage: Passage) -> range:
    last = len(passage.ids) - 1
    return range(max(0, last - ASKED_PER_PASSAGE), last)


def _first_difference(theirs: Sequence[int], ours: Sequence[int]) -> str:
    for place, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        if their != our:
            return f"token {place} is {their}, not {our}"
    return f"{len(theirs)} tokens, not {len(ours)}"
