"""Settings for editors: what a person pastes, or ``--write-config`` writes.

Continue's ``config.yaml``, llama.vscode, llama.vim and minuet-ai.nvim (its provider
``openai_fim_compatible``). None of the editors has been run with them yet, see ``docs/serve.md``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from repotune.durable import writing
from repotune.errors import UsageError

MARK: Final = "Written by `repotune serve --write-config`, which replaces this file."
FILES: Final = {
    "continue/config.yaml": "#",
    "llama.vscode/settings.json": "//",
    "neovim/minuet.lua": "--",
    "neovim/llama_vim.lua": "--",
}
"""Where each lies -> what a comment begins with."""


def editor_settings(
    address: str, token: str, models: Sequence[str], *, has_chat: bool, context: int
) -> dict[str, str]:
    """File -> text. ``models`` are the served ones' names, the one to complete with first;
    ``context`` is in tokens."""
    texts = (
        _continue(address, token, models, has_chat),
        _llama_vscode(address, token),
        _minuet(address, token, models[0], context),
        _llama_vim(address, token),
    )
    return {
        name: f"{comment} {MARK}\n{text}"
        for (name, comment), text in zip(FILES.items(), texts, strict=True)
    }


def refuse_others_files(folder: Path) -> None:
    """Raises UsageError if a file in ``folder`` that would be replaced was not written by us."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a folder with --write-config.")
    for name in FILES:
        path = folder / name
        if path.exists() and MARK not in path.read_text("utf-8", "replace").partition("\n")[0]:
            raise UsageError(
                f"{path} is yours and would be replaced: name another folder with --write-config, "
                "and copy from there."
            )


def write_settings(folder: Path, settings: Mapping[str, str]) -> None:
    """Write each file, readable by its owner only, since the token is in it.

    Raises RunError or DiskFull for what the system refuses.
    """
    with writing(folder, then="serve again"):
        for name, content in settings.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.unlink(missing_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(content)
            partial.replace(path)


def _continue(address: str, token: str, models: Sequence[str], has_chat: bool) -> str:
    """Its provider ``deepseek`` is the one that sends prompt and suffix apart, in OpenAI's form,
    so that no template has to know the model's tokens."""
    lines = ["name: repotune", "version: 1.0.0", "schema: v1", "models:"]
    for model in models:
        lines += _continue_model(f"repotune {model}", "deepseek", model, f"{address}/", token)
        lines += ["    roles: [autocomplete]"]
        if has_chat:
            lines += _continue_model(
                f"repotune {model} chat", "openai", model, f"{address}/v1", token
            )
            lines += ["    roles: [chat, edit]"]
    return "\n".join(lines) + "\n"


def _continue_model(name: str, provider: str, model: str, base: str, token: str) -> list[str]:
    return [
        f"  - name: {name}",
        f"    provider: {provider}",
        f"    model: {model}",
        f"    apiBase: {base}",
        f"    apiKey: {json.dumps(token)}",
    ]


def _llama_vscode(address: str, token: str) -> str:
    return json.dumps(
        {"llama-vscode.endpoint": address, "llama-vscode.api_key": token}, indent=2
    ) + "\n"  # fmt: skip


def _minuet(address: str, token: str, model: str, context: int) -> str:
    """Its own window, in characters, is more than many a model's context; of dense code a token
    has hardly less than a character and a half."""
    return f"""require("minuet").setup({{
  provider = "openai_fim_compatible",
  context_window = {context * 3 // 2},
  n_completions = 1,
  provider_options = {{
    openai_fim_compatible = {{
      name = "repotune",
      model = {json.dumps(model)},
      end_point = "{address}/v1/completions",
      api_key = function() return {json.dumps(token)} end,
      stream = true,
      optional = {{ max_tokens = 64 }},
    }},
  }},
}})
"""


def _llama_vim(address: str, token: str) -> str:
    return f"""vim.g.llama_config = {{
  endpoint_fim = "{address}/infill",
  api_key = {json.dumps(token)},
}}
"""
