"""llama.cpp quantises, answers, and where it dies that is one sentence."""

import sys

import numpy as np
import psutil
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from repotune.errors import ExportError
from repotune.gguf_file import quantise, row_bytes
from repotune.llama_cpp import (
    LlamaServer,
    Question,
    Text,
    _quantiser,
    ask,
    can_quantise,
    quantise_rows,
    version,
)
from repotune.model import Decoder, open_weights, resolve_model
from repotune.model.starter import starter_path
from repotune.records import LINEAR_MODULES, LoraSpec
from repotune.tokens import load_tokenizer


def test_rows_are_quantised_as_the_reference_does(monkeypatch):
    values = np.random.default_rng(0).normal(size=(37, 512)).astype(np.float32)
    assert can_quantise()
    # The gguf library's Q8_0 is an independent implementation of the same bytes.
    np.testing.assert_array_equal(quantise_rows(values, "Q8_0"), quantise(values, "Q8_0"))
    monkeypatch.setattr("repotune.llama_cpp.CHUNK_NUMBERS", 512 * 5)
    for kind, error in {"Q4_K": 0.08, "Q6_K": 0.02, "Q5_0": 0.05, "Q5_K": 0.04}.items():
        stored = quantise_rows(values, kind)  # in chunks of 5 rows
        assert stored.shape == (37, row_bytes(512, kind))
        back = dequantize(stored, GGMLQuantizationType[kind])
        assert np.linalg.norm(back - values) / np.linalg.norm(values) < error


def test_a_package_that_cannot_be_loaded_is_as_none(tmp_path, monkeypatch):
    """Built for another system, for instance."""
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('no such library')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [one for one in sys.modules if one.partition(".")[0] == "xllamacpp"]:
        monkeypatch.delitem(sys.modules, name)
    _quantiser.cache_clear()
    try:
        assert not can_quantise()
    finally:
        _quantiser.cache_clear()


def test_it_answers_what_our_decoder_would(tmp_path):
    """The starter's own file, which both read."""
    ref = resolve_model("starter", revision=None, offline=True, cache=None, emit=lambda e: None)
    lora = LoraSpec(r=1, alpha=1.0, dropout=0.0, target_modules=LINEAR_MODULES)
    tokenizer = load_tokenizer(starter_path())
    decoder = Decoder(open_weights(ref), lora=lora, dtype=torch.float32)
    ids = tokenizer.encode("def mean(values):\n    return sum(values) / len(")
    ours = decoder.logits(ids, adapted=False).log_softmax(1)
    answers = ask(
        starter_path(),
        [Question(ids=ids.tolist()), Question(ids=ids.tolist(), new_tokens=4)],
        [Text(text="<|im_end|>", special=True), Text(text="<|im_end|>", special=False)],
        scratch=tmp_path,
    )  # fmt: skip
    first, longer = answers.questions
    assert first.ids == [int(ours[-1].argmax())]
    assert len(first.likely) == 500
    # 4-bit weights meet activations in 8 bits there: a few per cent.
    best = max(first.likely, key=first.likely.__getitem__)
    assert first.likely[best] == pytest.approx(float(ours[-1, best]), abs=0.1)
    assert tokenizer.decode(longer.ids, continuation=True).startswith("values)")
    assert answers.texts[0] == [2]
    assert answers.texts[1] == tokenizer.encode("<|im_end|>").tolist()


def test_a_file_that_it_does_not_load_is_one_sentence(tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(starter_path().read_bytes()[:3_000_000])
    with pytest.raises(ExportError, match=r"llama\.cpp does not answer from cut\.gguf .*said: …"):
        ask(path, [Question(ids=[1])], scratch=tmp_path)


def test_a_file_that_it_does_not_serve_is_one_sentence_and_no_process(tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(starter_path().read_bytes()[:3_000_000])
    before = set(psutil.Process().children())
    with pytest.raises(ExportError, match=r"llama\.cpp does not serve cut\.gguf .*said: …"):
        LlamaServer(path, context=128, slots=1, scratch=tmp_path)
    assert set(psutil.Process().children()) <= before


def test_a_server_ends_when_its_owner_lets_go_of_it(tmp_path):
    """The owner's end of a pipe closes whatever way the owner ends."""
    with LlamaServer(starter_path(), context=128, slots=1, scratch=tmp_path) as server:
        assert not server.has_ended
        (process,) = [
            one for one in psutil.Process().children() if "listen()" in " ".join(one.cmdline())
        ]
        assert server.key not in " ".join(process.cmdline())
        assert server._process.stdin is not None
        server._process.stdin.close()
        process.wait(10)


def test_its_version_is_known():
    assert (version() or "").startswith("20")
