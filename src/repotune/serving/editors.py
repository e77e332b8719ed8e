"""Settings for editors: what a person pastes, or ``--write-config`` writes.

Continue's ``config.yaml``, llama.vscode, llama.vim and minuet-ai.nvim (its provider
``openai_fim_compatible``). What they were tried with is in ``docs/serve.md``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from repotune.durable import writing
from repotune.errors import UsageError

MARK: Final = "Written by `repotune serve --write-config`, which replaces this file."
FILES: Final = {
    "continue/config.yaml": "# As ~/.continue/config.yaml, or its models among yours.",
    "llama.vscode/settings.json": "// Into VS Code's settings.json; Tab takes a completion.",
    "neovim/minuet.lua": "-- Run it once minuet-ai.nvim is there; Alt-Shift-a takes a completion.",
    "neovim/llama_vim.lua": "-- Run it before llama.vim is loaded; Tab takes a completion.",
}
"""Where each lies -> what a person does with it, as a comment."""


def editor_settings(
    address: str, token: str, models: Mapping[str, bool], *, has_chat: bool, context: int
) -> dict[str, str]:
    """File -> text. ``models`` are the served ones' names, the one to complete with first, and
    whether each fills in the middle, as the first has to; ``context`` is in tokens."""
    first = next(iter(models))
    texts = (
        _continue(address, token, models, has_chat, context),
        _llama_vscode(address, token, first, has_chat, context),
        _minuet(address, token, first, context),
        _llama_vim(address, token, first, context),
    )
    return {
        name: f"{use.partition(' ')[0]} {MARK}\n{use}\n{text}"
        for (name, use), text in zip(FILES.items(), texts, strict=True)
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


def _continue(
    address: str, token: str, models: Mapping[str, bool], has_chat: bool, context: int
) -> str:
    """Its provider ``deepseek`` is the one that sends prompt and suffix apart, in OpenAI's form,
    so that no template has to know the model's tokens. Its own ``modelTimeout``, 150 ms, ends an
    answer after 10 pieces or a line on any machine without a large GPU."""
    lines = ["name: repotune", "version: 1.0.0", "schema: v1", "models:"]
    for model, fills_in in models.items():
        if fills_in:
            lines += _continue_model(
                f"repotune {model}", "deepseek", model, f"{address}/", token, context, 128
            )
            lines += ["    roles: [autocomplete]", "    autocompleteOptions:"]
            lines += ["      modelTimeout: 2000"]
        if has_chat:
            lines += _continue_model(
                f"repotune {model} chat",
                "openai",
                model,
                f"{address}/v1",
                token,
                context,
                context // 4,
            )
            lines += ["    roles: [chat, edit]"]
    return "\n".join(lines) + "\n"


def _continue_model(
    name: str, provider: str, model: str, base: str, token: str, context: int, most: int
) -> list[str]:
    """It cuts prompts to ``context``, by itself to 32,768; ``most`` are an answer's tokens."""
    return [
        f"  - name: {name}",
        f"    provider: {provider}",
        f"    model: {model}",
        f"    apiBase: {base}",
        f"    apiKey: {json.dumps(token)}",
        "    defaultCompletionOptions:",
        f"      contextLength: {context}",
        f"      maxTokens: {most}",
    ]


def _window(context: int) -> dict[str, int]:
    """How much llama.cpp's two plugins send, so that it fits into ``context``: what does not is cut
    off by the door, and read again from the cut on. Their own numbers are for 32,768 tokens and
    more; a line of code has about ten, and a chunk of other code at most 64 lines."""
    return {
        "n_prefix": min(256, context // 32),
        "n_suffix": min(64, context // 128),
        "ring_n_chunks": min(16, context // 1024),
    }


def _llama_vscode(address: str, token: str, model: str, has_chat: bool, context: int) -> str:
    """Without ``ai_model`` it names a model that is not here, which matters where there are two; an
    answer is one, however many it asks for; and llama.cpp need not be installed for it."""
    settings: dict[str, object] = {
        "endpoint": address,
        "api_key": token,
        "ai_model": model,
        "max_parallel_completions": 1,
        "ask_install_llamacpp": False,
        **_window(context),
    }
    if has_chat:
        settings |= {"endpoint_chat": address, "api_key_chat": token}
    named = {f"llama-vscode.{name}": value for name, value in settings.items()}
    return json.dumps(named, indent=2) + "\n"


def _minuet(address: str, token: str, model: str, context: int) -> str:
    """Its own window, in characters, is more than many a model's context; of dense code a token
    has hardly less than a character and a half. Its own prompt begins with two comments on language
    and indentation, which the model was not trained on. The keys are those of its README; without
    any it shows nothing by itself."""
    return f"""require("minuet").setup({{
  provider = "openai_fim_compatible",
  context_window = {context * 3 // 2},
  n_completions = 1,
  request_timeout = 10,
  virtualtext = {{
    auto_trigger_ft = {{ "*" }},
    keymap = {{
      accept = "<A-A>",
      accept_line = "<A-a>",
      next = "<A-]>",
      prev = "<A-[>",
      dismiss = "<A-e>",
    }},
  }},
  provider_options = {{
    openai_fim_compatible = {{
      name = "repotune",
      model = {json.dumps(model)},
      end_point = "{address}/v1/completions",
      api_key = function() return {json.dumps(token)} end,
      stream = true,
      template = {{
        prompt = function(before) return before end,
        suffix = function(_, after) return after end,
      }},
      optional = {{ max_tokens = 64 }},
    }},
  }},
}})
"""


def _llama_vim(address: str, token: str, model: str, context: int) -> str:
    """``endpoint_inst`` too: the plugin sends the key there, whoever listens at its own address."""
    settings: dict[str, object] = {
        "endpoint_fim": f"{address}/infill",
        "endpoint_inst": f"{address}/v1/chat/completions",
        "api_key": token,
        "model_fim": model,
        "model_inst": model,
        **_window(context),
    }
    lines = [f"  {name} = {json.dumps(value)},\n" for name, value in settings.items()]
    return f"vim.g.llama_config = {{\n{''.join(lines)}}}\n"
