"""Which adapter is used: the exported one, or that of a checkpoint, in the same form."""

import pytest
import torch
from safetensors.torch import load_file

from repotune.errors import CheckpointError, RunError
from repotune.runs import RunFolder
from repotune.stages import adapter_folder, export, train_on

from .jobs import nothing, ready

NAME = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def trained(source_tree, tiny_model, tmp_path_factory):
    """Four steps, saved after each second one; the weights of the last are exported."""
    one = ready(
        tmp_path_factory.mktemp("runs") / "run", source_tree, tiny_model,
        early_stopping_patience=0,
    )  # fmt: skip
    train_on(one.folder, one.job, one.decoder, one.rows, one.passes, nothing, memory=int)
    export(one.folder, one.job, one.decoder)
    return one


def test_without_a_step_it_is_the_exported_one(trained):
    with adapter_folder(trained.folder, trained.job, None) as folder:
        assert folder == trained.folder.adapter
    assert folder.exists()


def test_a_checkpoint_has_the_form_of_an_adapter_and_goes_again(trained):
    assert trained.folder.kept_steps() == (2, 4)
    exported = load_file(trained.folder.adapter / NAME)
    found = {}
    for step in (2, 4):
        with adapter_folder(trained.folder, trained.job, step) as folder:
            found[step] = load_file(folder / NAME)
        assert not folder.exists()
    assert found[2].keys() == found[4].keys() == exported.keys()
    same = [all(torch.equal(found[s][n], exported[n]) for n in exported) for s in (2, 4)]
    assert sum(same) == 1  # the best step is one of the two


def test_what_is_not_there_or_damaged_is_one_sentence(trained):
    with (
        pytest.raises(RunError, match=r"no checkpoint of step 3, but those of steps 2, 4\."),
        adapter_folder(trained.folder, trained.job, 3),
    ):
        pass
    nothing_yet = RunFolder(trained.folder.path / "nowhere")
    with pytest.raises(RunError, match="has no adapter yet: finish it"):
        nothing_yet.refuse_no_adapter(3)
    nothing_yet.adapter.mkdir(parents=True)
    with pytest.raises(RunError, match="no checkpoint of step 3, nor of another"):
        nothing_yet.refuse_no_adapter(3)
    nothing_yet.adapter.rmdir()
    (nothing_yet.checkpoints / "step-000008").mkdir(parents=True)
    with pytest.raises(RunError, match=r"or take a checkpoint \(that of step 8\) with --step"):
        nothing_yet.refuse_no_adapter(None)


def test_one_other_bit_in_the_adapter_is_refused(trained):
    """PEFT would load it."""
    path = trained.folder.adapter / NAME
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with (
            pytest.raises(RunError, match=r"edited or damaged.* --resume .*` write it again\."),
            adapter_folder(trained.folder, trained.job, None),
        ):
            pass
    finally:
        path.write_bytes(content)


def test_a_damaged_checkpoint_is_refused(trained):
    path = trained.folder.checkpoints / "step-000002" / "lora.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    try:
        with (
            pytest.raises(CheckpointError, match=r"damaged: .*choose another step"),
            adapter_folder(trained.folder, trained.job, 2),
        ):
            pass
    finally:
        path.write_bytes(content)
