"""The Modelfile that ollama makes a model of, beside the GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from repotune.tokens import CodeTokenizer

MODELFILE: Final = "Modelfile"


def modelfile(gguf_name: str, tokenizer: CodeTokenizer, metadata: Mapping[str, Any]) -> str:
    """What ``ollama create -f`` reads.

    The prompt is given to the model as it is, and with a suffix as the model was trained to fill
    in the middle. ``metadata`` is the GGUF file's: it has the tokens' names.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    stops = "".join(
        f"PARAMETER stop {_quoted(tokens[number])}\n" for number in sorted(tokenizer.stop_ids)
    )
    return (
        f"FROM ./{gguf_name}\n\n"
        f'TEMPLATE """{_template(tokenizer, tokens)}"""\n\n'
        # Older versions put 1.1 here, which keeps code from saying a name twice.
        f"{stops}PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n"
    )


def _template(tokenizer: CodeTokenizer, tokens: Any) -> str:
    fim = tokenizer.fim
    if fim is None:
        return "{{ .Prompt }}"
    return (
        "{{- if .Suffix }}"
        f"{fim.text(tokens, '{{ .Prompt }}', '{{ .Suffix }}')}"
        "{{- else }}{{ .Prompt }}{{- end }}"
    )


def _quoted(token: str) -> str:
    return '"' + token.replace('"', '\\"') + '"'
