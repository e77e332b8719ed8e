"""The Modelfile: what ollama puts before the model, with and without a suffix."""

import re

import pytest

from repotune.export import modelfile
from repotune.tokens import gguf_metadata, load_tokenizer, prompt_ids

from ..tokens.vocabularies import write_byte_level, write_codellama
from .tiny import write_tokenizer


def rendered(text, prompt, suffix):
    """The template, as Go's would render it."""
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    match = re.fullmatch(r"\{\{- if \.Suffix \}\}(.*)\{\{- else \}\}(.*)\{\{- end \}\}", template)
    chosen = match[1 if suffix else 2] if match else template
    return chosen.replace("{{ .Prompt }}", prompt).replace("{{ .Suffix }}", suffix)


def ids_of(text, tokenizer, metadata):
    """As llama.cpp: special tokens by name, the text between by itself, no space before it."""
    tokens = metadata["tokenizer.ggml.tokens"]
    special = {tokens[number]: number for number in tokenizer.fim.ids}
    parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text)
    return [
        number
        for part in parts
        for number in ([special[part]] if part in special else tokenizer.encode_continuation(part))
    ]


@pytest.mark.parametrize("family", ["qwen", "starcoder", "deepseek"])
def test_a_suffix_becomes_the_prompt_of_training(family, tmp_path):
    write_byte_level(tmp_path, family)
    tokenizer, said = load_tokenizer(tmp_path), gguf_metadata(tmp_path, 700)
    text = modelfile("m.gguf", tokenizer, said)
    assert text.startswith("FROM ./m.gguf\n")
    prompt = rendered(text, "def f(x):\n    return ", "\n\nprint(f(1))\n")
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    expected = prompt_ids(tokenizer, "def f(x):\n    return ", "\n\nprint(f(1))\n")
    assert [*bos, *ids_of(prompt, tokenizer, said)] == expected.tolist()
    assert rendered(text, "a = ", "") == "a = "


def test_nothing_is_drawn_and_no_token_is_held_back(tmp_path):
    """The names of parameters are ollama's: its own parser was given this file."""
    write_byte_level(tmp_path, "qwen")
    text = modelfile("m.gguf", load_tokenizer(tmp_path), gguf_metadata(tmp_path, 700))
    lines = [line for line in text.splitlines() if line.startswith("PARAMETER")]
    assert lines == [
        'PARAMETER stop "<|endoftext|>"', "PARAMETER temperature 0", "PARAMETER repeat_penalty 1",
    ]  # fmt: skip


def test_codellamas_tokens_and_stops(tmp_path):
    write_codellama(tmp_path)
    tokenizer, said = load_tokenizer(tmp_path), gguf_metadata(tmp_path, 32016)
    text = modelfile("m.gguf", tokenizer, said)
    assert rendered(text, "a", "b") == "▁<PRE>a▁<SUF>b▁<MID>"
    assert re.findall(r'PARAMETER stop "(.*)"', text) == ["</s>", "▁<EOT>"]


def test_without_tokens_for_it_there_is_no_suffix(tmp_path):
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace("fim_", "other_"), "utf-8")
    tokenizer = load_tokenizer(tmp_path)
    text = modelfile("m.gguf", tokenizer, gguf_metadata(tmp_path, 272))
    assert 'TEMPLATE """{{ .Prompt }}"""' in text
    assert 'PARAMETER stop "<|endoftext|>"' in text
