"""What holds for every test: no network but loopback, and nothing of the user's is touched."""

import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _refuse_network(event: str, args: tuple[object, ...]) -> None:
    # args of socket.connect: the socket and its address, (host, port, ...) or a Unix path.
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
        assert host in LOOPBACK, f"a test wanted to reach {host}"


sys.addaudithook(_refuse_network)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches and measurements lie in the test session's folder, not in the user's home.

    For the whole session, since fixtures of a module come before those of a test.
    """
    home: Path = tmp_path_factory.getbasetemp() / "user"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        patch.setenv("LOCALAPPDATA", str(home))
        if sys.platform == "darwin":
            patch.setenv("HOME", str(home))
        yield


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty files of real code, from the standard library."""
    tree = tmp_path_factory.mktemp("tree")
    stdlib = Path(sysconfig.get_path("stdlib"))
    for package in ("json", "email", "html", "wsgiref", "logging"):
        for path in sorted((stdlib / package).glob("*.py")):
            (tree / package).mkdir(exist_ok=True)
            (tree / package / path.name).write_bytes(path.read_bytes())
    return tree


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, source_tree: Path) -> Path:
    """A random Llama in Hugging Face layout, whose tokenizer has fill-in-the-middle tokens."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tiny-model")
    specials = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [path.read_text("utf-8") for path in sorted(source_tree.rglob("*.py"))]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": specials[0]}))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def finished(source_tree, tiny_model, tmp_path_factory):
    """A whole run on the tiny model, and what it said; read it, or evaluate it again."""
    from repotune import tune

    from .pipeline_runs import settings

    events = []
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = tune(source_tree, settings(tiny_model, folder), emit=events.append)
    return result, events
