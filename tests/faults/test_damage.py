"""Every byte flipped and every length cut off, in each file of a checkpoint."""

import pytest

from repotune.errors import CheckpointError
from repotune.training import latest, load, train
from repotune.training.checkpoint import damage_of

from ..training.tiny import TinyModel, TinyRows, settings

FILES = ("lora.safetensors", "optimizer.safetensors", "state.json", "digests.json")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_every_flipped_byte_and_every_truncation_is_found_and_named(tmp_path, tell):
    train(TinyModel(), TinyRows(), **settings(tmp_path, save_steps=4))
    path, like = tmp_path / "step-000008", TinyModel().lora_state()
    flipped = cut = 0
    for name in FILES:
        file = path / name
        whole = file.read_bytes()
        for place in range(len(whole)):
            bit = 1 << (place % 8)
            file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            assert name in (damage_of(path) or ""), (name, place)
            flipped += 1
            file.write_bytes(whole[:place])
            assert name in (damage_of(path) or ""), (name, place)
            cut += 1
        said = []
        assert latest(tmp_path, said.append).name == "step-000004"
        assert name in said[0].message
        with pytest.raises(CheckpointError, match=name):
            load(path, like=like, fingerprint="tiny")
        file.write_bytes(whole)
        assert damage_of(path) is None
    tell(
        f"{flipped} bytes flipped and {cut} truncations in the {len(FILES)} files of a checkpoint: "
        "each found and named, the one before used; lost: nothing."
    )
