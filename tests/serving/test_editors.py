"""Settings as each editor reads them, with the token, for nobody but their owner."""

import json
import os
import stat

import pytest

from repotune.errors import UsageError
from repotune.serving import editor_settings, refuse_others_files, write_settings
from repotune.serving.editors import MARK

ADDRESS, TOKEN = "http://127.0.0.1:8012", 'a"token'


def settings(**changes):
    given = {"models": {"tuned": True, "base": True}, "has_chat": False, "context": 4096, **changes}
    return editor_settings(ADDRESS, TOKEN, given.pop("models"), **given)


def test_continue_asks_each_model_with_the_suffix_apart():
    text = settings()["continue/config.yaml"]
    models = text.split("  - name: ")[1:]
    assert [model.splitlines()[0] for model in models] == ["repotune tuned", "repotune base"]
    for model, name in zip(models, ("tuned", "base"), strict=True):
        lines = [line.strip() for line in model.splitlines()]
        # Its provider of that name posts prompt and suffix to beta/completions under the base.
        assert "provider: deepseek" in lines
        assert f"apiBase: {ADDRESS}/" in lines
        assert f"model: {name}" in lines
        assert "roles: [autocomplete]" in lines
        assert 'apiKey: "a\\"token"' in lines
    assert "roles: [chat, edit]" in settings(has_chat=True)["continue/config.yaml"]
    assert "chat" not in text


def test_a_base_that_fills_nothing_in_is_not_asked_to():
    """Beside a model that was taught it: each request of an editor's would be refused."""
    taught = {"tuned": True, "base": False}
    assert "base" not in settings(models=taught)["continue/config.yaml"].replace("apiBase", "")
    text = settings(models=taught, has_chat=True)["continue/config.yaml"]
    names = [model.splitlines()[0] for model in text.split("  - name: ")[1:]]
    assert names == ["repotune tuned", "repotune tuned chat", "repotune base chat"]


def test_continue_knows_how_much_fits_and_waits_for_a_slow_machine():
    """Its own numbers are 32,768 tokens, and 10 pieces of an answer that took 375 ms."""
    text = settings(context=2048)["continue/config.yaml"]
    assert text.count("      contextLength: 2048\n      maxTokens: 128\n") == 2
    assert text.count("    autocompleteOptions:\n      modelTimeout: 2000\n") == 2


def test_llama_vscodes_are_json_behind_the_mark():
    first, second, rest = settings()["llama.vscode/settings.json"].split("\n", 2)
    assert first == f"// {MARK}"
    assert second.startswith("// Into VS Code's settings.json")
    assert json.loads(rest) == {
        "llama-vscode.endpoint": ADDRESS,
        "llama-vscode.api_key": TOKEN,
        "llama-vscode.ai_model": "tuned",
        "llama-vscode.max_parallel_completions": 1,
        "llama-vscode.ask_install_llamacpp": False,
        "llama-vscode.n_prefix": 128,
        "llama-vscode.n_suffix": 32,
        "llama-vscode.ring_n_chunks": 4,
    }
    assert '"llama-vscode.endpoint_chat": "http' in settings(has_chat=True)[
        "llama.vscode/settings.json"
    ]  # fmt: skip


def test_neovims_name_the_paths_that_the_door_has():
    texts = settings()
    assert f'end_point = "{ADDRESS}/v1/completions"' in texts["neovim/minuet.lua"]
    assert 'model = "tuned"' in texts["neovim/minuet.lua"]
    assert "context_window = 6144," in texts["neovim/minuet.lua"]
    assert f'endpoint_fim = "{ADDRESS}/infill"' in texts["neovim/llama_vim.lua"]
    # By itself the plugin would send the key to port 8012, whoever listens there.
    assert f'endpoint_inst = "{ADDRESS}/v1/chat/completions"' in texts["neovim/llama_vim.lua"]


@pytest.mark.parametrize(("context", "window"), [(1024, (32, 8, 1)), (65536, (256, 64, 16))])
def test_what_llama_vim_sends_fits_the_context(context, window):
    text = settings(context=context)["neovim/llama_vim.lua"]
    names = ("n_prefix", "n_suffix", "ring_n_chunks")
    for name, value in zip(names, window, strict=True):
        assert f"{name} = {value},\n" in text


def test_they_are_written_for_their_owner_and_over_our_own_only(tmp_path):
    folder = tmp_path / "new" / "config"
    refuse_others_files(folder)
    write_settings(folder, settings())
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert files == sorted(settings())
    if os.name != "nt":
        assert {stat.S_IMODE((folder / name).stat().st_mode) for name in files} == {0o600}
    refuse_others_files(folder)  # ours
    write_settings(folder, settings(models={"base": True}))
    assert "repotune tuned" not in (folder / "continue" / "config.yaml").read_text("utf-8")
    (folder / "continue" / "config.yaml").write_text("name: mine\n")
    with pytest.raises(UsageError, match=r"config\.yaml is yours"):
        refuse_others_files(folder)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        refuse_others_files(tmp_path / "x")
