"""What is kept of a quantised model is what quantising it again gives."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from repotune.errors import ModelError
from repotune.events import Notice
from repotune.model import Decoder, QuantisedLayers
from repotune.model import quantised as quantised_room
from repotune.model.weights import tensor_shapes
from repotune.records import LINEAR_MODULES, LoraSpec, Shape

SHAPE = Shape(
    model_type="llama", vocab_size=61, hidden_size=64, intermediate_size=128,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    rms_norm_eps=1e-5, rope_theta=1e4, rope_scaling=None, max_position_embeddings=128,
    tie_word_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
)  # fmt: skip
LORA = LoraSpec(r=2, alpha=4.0, dropout=0.0, target_modules=LINEAR_MODULES)
IDS = np.arange(20)


class Counting:
    """Random weights that note what was read."""

    shape = SHAPE

    def __init__(self):
        self.sizes, self.read_names = tensor_shapes(SHAPE), []
        self.order = {name: i for i, name in enumerate(self.sizes)}

    def names(self):
        return self.sizes

    def read(self, name):
        self.read_names.append(name)
        generator = torch.Generator().manual_seed(self.order[name])
        values = torch.randn(self.sizes[name], generator=generator)
        return values * 0.2 if values.dim() == 2 else values * 0.1 + 1.0

    def linears_read(self):
        return sum("_proj" in name for name in self.read_names)


def load(folder, emit=lambda event: None, quantised=True):
    source = Counting()
    layers = QuantisedLayers(folder, emit) if quantised else None
    decoder = Decoder(source, lora=LORA, dtype=torch.float32, use_4bit=True, quantised=layers)
    return source, decoder.logits(IDS)


def test_the_second_load_reads_no_linear_and_gives_the_same_bits(tmp_path):
    _, want = load(tmp_path / "absent", quantised=False)
    first, logits = load(tmp_path / "kept")
    assert first.linears_read() == 14
    assert torch.equal(logits, want)
    second, again = load(tmp_path / "kept")
    assert second.linears_read() == 0
    assert torch.equal(again, want)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"",
    ],
)
@pytest.mark.parametrize("name", ["layer-001.safetensors", "layer-001.sha256"])
def test_a_damaged_layer_is_made_again(damage, name, tmp_path):
    _, want = load(tmp_path)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    source, logits = load(tmp_path)
    assert source.linears_read() == 7
    assert torch.equal(logits, want)
    assert load(tmp_path)[0].linears_read() == 0


def test_a_disk_that_refuses_costs_the_cache_and_not_the_run(tmp_path):
    (tmp_path / "file").write_text("no folder")
    notices = []
    source, logits = load(tmp_path / "file" / "kept", notices.append)
    assert source.linears_read() == 14
    assert torch.equal(logits, load(tmp_path / "fresh")[1])
    assert len(notices) == 1
    assert isinstance(notices[0], Notice)
    assert "goes on without it" in notices[0].message


def test_a_disk_that_fills_up_gets_back_what_the_cache_took(tmp_path, monkeypatch):
    real = quantised_room.write_durably

    def full_at_the_second_layer(path, data):
        if "layer-001" in path.name:
            path.write_bytes(data[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(quantised_room, "write_durably", full_at_the_second_layer)
    notices = []
    _, logits = load(tmp_path / "kept", notices.append)
    assert list((tmp_path / "kept").iterdir()) == []
    assert len(notices) == 1
    assert "The disk is full" in notices[0].message
    assert torch.equal(logits, load(tmp_path / "absent", quantised=False)[1])


def test_where_nothing_is_to_be_kept_what_is_there_is_read_all_the_same(tmp_path):
    layers = QuantisedLayers(tmp_path / "kept", print, keeps=False)
    options = {"lora": LORA, "dtype": torch.float32, "use_4bit": True}
    Decoder(Counting(), quantised=layers, **options)
    assert not (tmp_path / "kept").exists()
    assert layers.count() == 0
    load(tmp_path / "kept")
    assert layers.count() == 2
    again = Counting()
    Decoder(again, quantised=layers, **options)
    assert again.linears_read() == 0


def test_a_width_that_is_no_whole_number_of_blocks_is_a_sentence():
    class Odd(Counting):
        shape = replace(SHAPE, hidden_size=12, head_dim=3 * 2, intermediate_size=20)

        def __init__(self):
            super().__init__()
            self.sizes = tensor_shapes(self.shape)

    with pytest.raises(ModelError, match=r"q_proj has 24 × 12 numbers.*use_4bit"):
        Decoder(Odd(), lora=LORA, dtype=torch.float32, use_4bit=True)


def kept_folder(root, name, *, used):
    folder = root / name
    folder.mkdir(parents=True)
    for file in ("layer-000.safetensors", "layer-000.sha256", ".layer-001.safetensors.partial"):
        with (folder / file).open("wb") as opened:
            opened.truncate(10**8 if file.endswith("tensors") else 10)
    os.utime(folder, (used, used))
    return folder


def test_what_no_run_asks_for_any_more_goes_and_only_that(tmp_path):
    root, said = tmp_path / "nf4", []
    ours = QuantisedLayers.folder_name("a" * 64, "bf16")
    recent = [
        kept_folder(root, QuantisedLayers.folder_name(f"{i}" * 64, "bf16"), used=100 + i)
        for i in range(6)
    ]
    old_format = kept_folder(root, "b" * 32 + "-bf16", used=999)
    kept_folder(root, ours, used=1)  # the one of this run, whenever it was used
    mine = kept_folder(root, "c" * 32 + "-notes", used=1)
    beside = kept_folder(root, "v1-" + "d" * 32 + "-fp32", used=2)
    (beside / "notes.txt").write_text("of the user's")
    os.utime(beside, (2, 2))
    link = root / ("v1-" + "e" * 32 + "-fp16")
    link.symlink_to(mine, target_is_directory=True)
    QuantisedLayers(root / ours, said.append).remove_unused()
    left = {path.name for path in root.iterdir()}
    assert left == {ours, mine.name, beside.name, link.name, *(one.name for one in recent[2:])}
    assert [path.name for path in beside.iterdir()] == ["notes.txt"]
    assert len(list(mine.iterdir())) == 3
    assert not old_format.exists()
    (notice,) = said
    assert notice.message.startswith("Removed 0.4 GB of 4-bit weights of other models")
    QuantisedLayers(root / ours, said.append).remove_unused()
    assert len(said) == 1
    QuantisedLayers(tmp_path / "none" / ours, said.append).remove_unused()  # there is no folder yet


def test_what_is_read_counts_as_used(tmp_path):
    folder = tmp_path / "kept"
    load(folder)
    os.utime(folder, (1, 1))
    load(folder)
    assert folder.stat().st_mtime > 10**9
