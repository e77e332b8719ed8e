"""The other side is asked, and what it does not compute is refused with the numbers."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from repotune.errors import ExportError
from repotune.export import (
    MergedWeights,
    ask_llama_cpp,
    ask_transformers,
    how_to_check,
    passage_ids,
    read_by_us,
    refuse_drift,
    why_other_tokens,
    write_merged,
    write_quantised,
)
from repotune.export import proof as proof_module
from repotune.export import write_model as write_gguf_model
from repotune.model import open_weights
from repotune.tokens import gguf_metadata, load_tokenizer

from ..tokens.vocabularies import BYTE_LEVEL_FAMILIES, write_byte_level, write_codellama
from .tiny import SPEC, adapted, save_adapter, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tuned model: base, tokenizer, decoder, and what it makes of the passages."""
    folder = tmp_path_factory.mktemp("base")
    base, tokenizer = write_model(folder), load_tokenizer(folder)
    decoder = adapted(base)
    return base, tokenizer, decoder, read_by_us(decoder, passage_ids(tokenizer))


def merged(base, decoder):
    return MergedWeights(open_weights(base), decoder.lora_state(), lora=decoder.lora)


def gguf_proof(path, source, folder, tokenizer, passages):
    said = gguf_metadata(folder, source.shape.vocab_size)
    write_gguf_model(
        path, source, said, name="tiny", licence=None, quantisation="f16", wrote=lambda count: None
    )
    return ask_llama_cpp(
        path, passages, tokenizer, said, quantisation="f16", dtype=torch.float32,
        scratch=path.parent,
    )  # fmt: skip


def test_an_adapter_is_read_by_peft(model, tmp_path):
    base, _, decoder, passages = model
    adapter = save_adapter(tmp_path / "adapter", decoder, base)
    found = ask_transformers(
        tmp_path.joinpath(base.path), passages, dtype=torch.float32, adapter=adapter
    )
    assert found.by.startswith("peft 0.")
    assert found.drift < 1e-5  # the bound the project promises
    assert found.positions == sum(len(passage.ids) - 1 for passage in passages)
    refuse_drift(found)


def test_what_lacks_the_adapter_is_not_handed_over(model, tmp_path):
    base, tokenizer, _, passages = model
    source = MergedWeights(open_weights(base), {}, lora=SPEC)
    write_merged(tmp_path, source, base, tokenizer, dtype=torch.float16, wrote=lambda count: None)
    found = ask_transformers(tmp_path, passages, dtype=torch.float32)
    with pytest.raises(ExportError, match=r"something else.*differ by \d+\.\d+%.*not handed over"):
        refuse_drift(found)
    folder = tmp_path.joinpath(base.path)
    found = gguf_proof(tmp_path / "model.gguf", source, folder, tokenizer, passages)
    with pytest.raises(ExportError, match=r"llama\.cpp .* something else.*bound.*nats a token"):
        refuse_drift(found)


def test_rows_in_the_wrong_order_are_not_handed_over(model, tmp_path, monkeypatch):
    base, tokenizer, decoder, passages = model
    monkeypatch.setattr("repotune.export.gguf.permuted", lambda tensor, heads: tensor)
    folder = tmp_path.joinpath(base.path)
    found = gguf_proof(tmp_path / "model.gguf", merged(base, decoder), folder, tokenizer, passages)
    assert found.drift > 10 * found.drift_bound
    with pytest.raises(ExportError):
        refuse_drift(found)


def test_a_weak_adapter_that_is_lost_among_few_bits_is_not_handed_over(model, tmp_path):
    """Four bits drift as far as the adapter reaches: the distance alone says nothing."""
    base, tokenizer, decoder, _ = model
    weak = adapted(base, wide=0.02)
    passages, folder = read_by_us(weak, passage_ids(tokenizer)), tmp_path.joinpath(base.path)
    said = gguf_metadata(folder, decoder.shape.vocab_size)
    found = {}
    for name, adapter in {"with": weak.lora_state(), "without": {}}.items():
        source = MergedWeights(open_weights(base), adapter, lora=weak.lora)
        path = tmp_path / f"{name}.gguf"
        write_quantised(
            path, source, said, name=name, licence=None, quantisation="q4_k_m", program=None,
            wrote=lambda count: None,
        )  # fmt: skip
        found[name] = ask_llama_cpp(
            path, passages, tokenizer, said, quantisation="q4_k_m", dtype=torch.float32,
            scratch=tmp_path,
        )  # fmt: skip
    refuse_drift(found["with"])
    assert found["without"].drift <= found["without"].drift_bound
    with pytest.raises(ExportError, match=r"llama\.cpp .* finds -?\d+% of what the adapter"):
        refuse_drift(found["without"])


def test_not_a_number_is_a_drift(model, tmp_path):
    base, _, decoder, passages = model
    adapter = save_adapter(tmp_path / "adapter", decoder, base)
    found = ask_transformers(
        tmp_path.joinpath(base.path), passages, dtype=torch.float32, adapter=adapter
    )
    for broken in (replace(found, drift=float("nan")), replace(found, their_nats=float("nan"))):
        with pytest.raises(ExportError):
            refuse_drift(broken)


@pytest.mark.parametrize("family", ["codellama", *BYTE_LEVEL_FAMILIES])
def test_llama_cpp_reads_text_as_the_tokens_of_training(family, tmp_path):
    """Code, and a prompt around a gap in the family's own tokens."""
    folder = tmp_path / "base"
    folder.mkdir()
    is_codellama = family == "codellama"
    base = write_model(
        folder, hidden_size=32, intermediate_size=32, num_attention_heads=2,
        num_key_value_heads=2, layers=1, vocab_size=32016 if is_codellama else 640,
        eos_token_id=None,
    )  # fmt: skip
    write_codellama(tmp_path) if is_codellama else write_byte_level(folder, family)
    if is_codellama:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).replace(folder / name)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.fim is not None
    decoder = adapted(base)
    passages = read_by_us(decoder, passage_ids(tokenizer))
    source = merged(base, decoder)
    refuse_drift(gguf_proof(tmp_path / "model.gguf", source, folder, tokenizer, passages))
    # The check itself: a file that splits in another way is told from one that does not.
    if not is_codellama:
        said = gguf_metadata(folder, 640)
        broken = {**said, "tokenizer.ggml.merges": said["tokenizer.ggml.merges"][:100]}
        write_gguf_model(
            tmp_path / "broken.gguf", source, broken, name="tiny", licence=None,
            quantisation="f16", wrote=lambda count: None,
        )  # fmt: skip
        with pytest.raises(ExportError, match=r"llama\.cpp reads 'def read_settings.*other tokens"):
            ask_llama_cpp(
                tmp_path / "broken.gguf", passages, tokenizer, said, quantisation="f16",
                dtype=torch.float32, scratch=tmp_path,
            )  # fmt: skip


def test_a_tokenizer_that_differs_in_transformers_is_told(model, tmp_path):
    base, tokenizer, decoder, _ = model
    write_merged(
        tmp_path, merged(base, decoder), base, tokenizer,
        dtype=torch.float16, wrote=lambda count: None,
    )  # fmt: skip
    assert why_other_tokens(tmp_path, tokenizer) is None
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["merges"] = []
    path.write_text(json.dumps(content), "utf-8")
    assert "4 of 4 pieces of code" in (why_other_tokens(tmp_path, tokenizer) or "")


def test_what_is_not_installed_is_named_with_the_command(monkeypatch):
    assert how_to_check("transformers", "peft") is None
    monkeypatch.setattr(
        proof_module, "find_spec", lambda name: None if name == "xllamacpp" else find_spec(name)
    )
    assert how_to_check("transformers") is None
    sentence = how_to_check("xllamacpp")
    assert sentence is not None
    assert 'pip install "repotune[gguf]"' in sentence
