"""Trees, models and run folders that mean harm, or were edited by hand: a sentence, and no more."""

import json
import os
import pickle
import shutil
import struct
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repotune import FineTuningConfig, resume, tune
from repotune.errors import ModelError, RepotuneError, RunError
from repotune.events import Notice, StepDone
from repotune.runs import RunFolder

POSIX = os.name == "posix"
SECRET = "a-line-that-lies-outside-of-the-tree"


def settings(base, output_dir, **changes):
    return FineTuningConfig(
        **{
            "model": str(base), "output_dir": output_dir, "max_seq_length": 64, "batch_size": 2,
            "gradient_accumulation_steps": 1, "max_steps": 4, "save_steps": 2,
            "learning_rate": 1e-2, "precision": "fp32", "evaluate": False, **changes,
        }
    )  # fmt: skip


class Watched:
    """Notes what this process opens for reading, and every socket, while it is asked to."""

    def __init__(self):
        self.on, self.opened, self.sockets = False, [], []
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        if not self.on:
            return
        if event == "open":
            self.opened.append(str(args[0]))
        elif event.startswith("socket.") and event != "socket.gethostname":
            self.sockets.append(event)

    def __enter__(self):
        self.on, self.opened, self.sockets = True, [], []
        return self

    def __exit__(self, *error):
        self.on = False


@pytest.fixture(scope="module")
def watched():
    return Watched()


def hostile_tree(place, source_tree):
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text(f"x = '{SECRET}'\n" * 40)
    tree = place / "tree"
    shutil.copytree(source_tree, tree)
    (tree / ("n" * 250 + ".py")).write_text("long = 1\n" * 30)
    for name in ("Case.py", "case.py", "CASE.py", "con.txt.py"):
        (tree / name).write_text(f"name = {name!r}\n" * 30)
    (tree / "null.py").write_bytes(b"\0" * 5000)
    (tree / "utf16.py").write_bytes(("x = 1\n" * 50).encode("utf-16"))
    if POSIX:
        (tree / "CON.py").write_text("console = 1\n" * 30)
        (tree / "out").symlink_to(outside)
        (tree / "out.py").symlink_to(outside / "secret.py")
        (tree / "loop").symlink_to(tree)
        (tree / "zero.py").symlink_to("/dev/zero")
        os.mkfifo(tree / "pipe.py")
        (tree / os.fsdecode(b"\xff\xfe.py")).write_text("x = 1\n" * 30)
        (tree / "unreadable.py").write_text("x = 1\n" * 30)
        (tree / "unreadable.py").chmod(0)
        (tree / "line\nbreak\x1b[31m.py").write_text("x = 1\n" * 30)
    return tree, outside


def test_a_hostile_tree_is_read_inside_its_root_only_and_in_time(
    tmp_path, source_tree, tiny_model, watched
):
    tree, outside = hostile_tree(tmp_path, source_tree)
    run = tmp_path / "run"
    began = time.monotonic()
    with watched:
        result = tune(tree, settings(tiny_model, run))
    assert time.monotonic() - began < 60
    assert result.steps == 4
    assert not [path for path in watched.opened if path.startswith(str(outside))]
    assert not [path for path in watched.opened if path in ("/dev/zero", str(tree / "pipe.py"))]
    for path in run.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()


def harmful(mark):
    """Whoever unpickles this makes the file ``mark``."""

    class Harm:
        def __reduce__(self):
            return Path.touch, (mark,)

    return pickle.dumps(Harm())


def header(length, text):
    return struct.pack("<Q", length) + text


def config_with(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder, mark):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(harmful(mark))


def pickled_under_a_good_name(folder, mark):
    (folder / "model.safetensors").write_bytes(harmful(mark))


def remote_code(folder, mark):
    config_with(folder, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (folder / "modeling.py").write_text(f"open({str(mark)!r}, 'w')\n")


def header_of_a_gigabyte(folder, mark):
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header(2**30, b"{"))
        file.truncate(2**30 + 16)  # sparse: the disk holds a page of it


def header_longer_than_the_file(folder, mark):
    (folder / "model.safetensors").write_bytes(header(2**40, b"{}"))


def offsets_beyond_the_file(folder, mark):
    text = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}).encode()
    (folder / "model.safetensors").write_bytes(header(len(text), text))


def overlapping_offsets(folder, mark):
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    text = json.dumps({"x": one, "y": one}).encode()
    (folder / "model.safetensors").write_bytes(header(len(text), text) + bytes(16))


def a_shape_that_lies(folder, mark):
    text = json.dumps({"x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}})
    (folder / "model.safetensors").write_bytes(header(len(text), text.encode()) + bytes(16))


def shards_elsewhere(folder, mark):
    (folder / "model.safetensors").rename(folder / "moved.safetensors")
    index = {"weight_map": {"model.norm.weight": "../../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def a_million_layers(folder, mark):
    config_with(folder, num_hidden_layers=10**6)


def sizes_that_need_all_memory(folder, mark):
    config_with(folder, hidden_size=2**30, intermediate_size=2**31 - 1)


def a_configuration_nested_a_million_deep(folder, mark):
    (folder / "config.json").write_text('{"a":' * 10**6)


def a_tokenizer_that_is_a_pickle(folder, mark):
    (folder / "tokenizer.json").write_bytes(harmful(mark))


MODELS = (
    pickled, pickled_under_a_good_name, remote_code, header_of_a_gigabyte,
    header_longer_than_the_file, offsets_beyond_the_file, overlapping_offsets, a_shape_that_lies,
    shards_elsewhere, a_million_layers, sizes_that_need_all_memory,
    a_configuration_nested_a_million_deep, a_tokenizer_that_is_a_pickle,
)  # fmt: skip


@pytest.mark.parametrize("spoil", MODELS, ids=lambda spoil: spoil.__name__)
def test_a_hostile_model_is_refused_before_it_is_loaded(
    spoil, tmp_path, source_tree, tiny_model, watched
):
    model, mark = tmp_path / "model", tmp_path / "harm-was-done"
    shutil.copytree(tiny_model, model)
    spoil(model, mark)
    with watched, pytest.raises(RepotuneError) as said:
        tune(source_tree, settings(model, tmp_path / "run"))
    assert str(tmp_path) in str(said.value)
    assert "\n" not in str(said.value)
    assert not mark.exists()
    assert "modeling" not in sys.modules
    assert watched.sockets == []
    assert not (tmp_path / "run").exists()


def test_a_gguf_file_whose_offsets_lie_is_refused(tmp_path, source_tree, watched):
    file = tmp_path / "model.gguf"
    name = b"token_embd.weight"
    tensor = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 64, 600, 0, 2**50)
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + bytes(64))
    with watched, pytest.raises(ModelError, match=r"model\.gguf"):
        tune(source_tree, settings(file, tmp_path / "run"))
    assert watched.sockets == []


@pytest.fixture(scope="module")
def stopped(source_tree, tiny_model, tmp_path_factory):
    """A run that saved steps 2 and 3 of 4."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    events = []

    def emit(event):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(RepotuneError, match="Stopped"):
        tune(source_tree, settings(tiny_model, folder, save_steps=1), emit=emit)
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    return RunFolder(Path(shutil.copytree(stopped, tmp_path / "run")))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        # The log of TensorBoard names its host and time; the lock is empty.
        if path.is_file() and path.name not in ("run.json", "run.lock")
    }


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_settings(run):
    text = run.run_json.read_text().replace('"lora_r": 16', '"lora_r": 32')
    run.run_json.write_text(text)


def other_tokens(run):
    path = run.tokens / "ids-000.bin"
    path.write_bytes(bytes(len(path.read_bytes())))


def other_corpus(run):
    (run.corpus / "documents.parquet").write_bytes(b"PAR1")


def swapped_rows(run):
    edit_json(run.tokens / "tokens.json", dtype="<u4")


EDITS = {
    other_settings: r"run\.json was edited or damaged",
    other_tokens: r"ids-000\.bin was edited or damaged",
    other_corpus: r"documents\.parquet was edited or damaged",
    swapped_rows: r"tokens\.json was edited or damaged",
}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_run_that_was_edited_is_refused_and_nothing_of_it_is_overwritten(edit, run):
    edit(run)
    before = contents(run.path)
    with pytest.raises(RunError, match=EDITS[edit]):
        resume(run.path)
    assert contents(run.path) == before


def newest(run):
    return max(run.checkpoints.glob("step-*"))


@pytest.mark.parametrize("name", ["state.json", "lora.safetensors", "digests.json"])
def test_an_edited_checkpoint_is_passed_over_and_named(name, run, stopped, tmp_path):
    whole = RunFolder(Path(shutil.copytree(stopped, tmp_path / "whole")))
    resume(whole.path)
    path = newest(run) / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    events = []
    assert resume(run.path, emit=events.append).steps == 4
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any(name in message and "is not used" in message for message in said)
    ours, theirs = (load_file(one.adapter / "adapter_model.safetensors") for one in (run, whole))
    assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in theirs)


def test_a_checkpoint_of_another_run_is_refused(run, source_tree, tiny_model, tmp_path):
    other = tmp_path / "other"
    tune(source_tree, settings(tiny_model, other, seed=7))
    shutil.rmtree(run.checkpoints)
    shutil.copytree(other / "checkpoints", run.checkpoints)
    before = contents(run.path)
    with pytest.raises(RunError, match="made with other settings, rows or another base model"):
        resume(run.path)
    assert contents(run.path) == before


def test_an_edited_config_toml_is_said_and_not_heeded(run):
    run.config_toml.write_text(
        run.config_toml.read_text().replace("max_steps = 4", "max_steps = 9")
    )
    events = []
    assert resume(run.path, emit=events.append).steps == 4
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any("config.toml was edited" in message for message in said)


def test_moved_away_rows_are_made_again_and_are_the_same(run):
    before = {path.name: path.read_bytes() for path in run.tokens.iterdir()}
    shutil.rmtree(run.tokens)
    assert resume(run.path).steps == 4
    assert {path.name: path.read_bytes() for path in run.tokens.iterdir()} == before


@pytest.mark.skipif(not POSIX, reason="Windows asks for a privilege to make links")
def test_a_link_in_place_of_a_checkpoint_is_no_way_out(run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for path in run.checkpoints.glob("step-*"):
        shutil.rmtree(path)
    (run.checkpoints / "step-000002").symlink_to(mine)
    (run.checkpoints / ".step-000009.partial").symlink_to(mine)
    assert resume(run.path).steps == 4
    assert (mine / "thesis.txt").read_text() == "mine"


def test_while_one_process_works_on_a_run_another_is_refused(run):
    with run.locked(), pytest.raises(RunError, match="in use by process"):
        resume(run.path)
    assert resume(run.path).steps == 4
