"""The exported adapter in peft's hands, and what becomes of it when the disk fails."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers

from repotune.errors import DiskFull, RepotuneError, RunError
from repotune.export import export_adapter, load_adapter
from repotune.model import Decoder, open_weights
from repotune.records import LINEAR_MODULES, LoraSpec, ModelRef

VOCAB = 97
TOLERANCE = 1e-5  # relative L2 in fp32: the bound the project promises
SPEC = LoraSpec(r=4, alpha=8.0, dropout=0.05, target_modules=LINEAR_MODULES)
TARGETS = {
    "all seven": LINEAR_MODULES,
    "q and v": ("q_proj", "v_proj"),
    "one of the MLP": ("up_proj",),
    "those with stacks of their own": ("o_proj", "down_proj"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).float().eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.3, 0.3).add_(1.0 if parameter.dim() == 1 else 0.0)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return ModelRef(name=str(folder), revision=None, path=str(folder), digest="")


def new_decoder(base, lora=SPEC, *, seed=None):
    decoder = Decoder(open_weights(base), lora=lora, dtype=torch.float32)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for tensor in decoder.lora_state().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        decoder.refresh()
    return decoder


def export(folder, decoder, base):
    export_adapter(folder, decoder.lora_state(), lora=decoder.lora, base=base)


def relative(got, want):
    return float((got - want).norm() / want.norm())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("alpha", [8.0, 7.5])
def test_peft_loads_it_and_gives_the_same_logits(targets, alpha, base, tmp_path):
    lora = LoraSpec(r=4, alpha=alpha, dropout=0.05, target_modules=targets)
    ours = new_decoder(base, lora, seed=1)
    export(tmp_path / "run" / "adapter", ours, base)
    model = transformers.LlamaForCausalLM.from_pretrained(base.path)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "run" / "adapter").eval()
    ids = np.random.default_rng(0).integers(0, VOCAB, 40)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids)[None]).logits[0]
        with theirs.disable_adapter():
            without = theirs(input_ids=torch.tensor(ids)[None]).logits[0]
    assert relative(ours.logits(ids), expected) <= TOLERANCE
    assert relative(without, expected) > 0.01  # the adapter does something


def test_it_is_what_peft_itself_would_save(base, tmp_path):
    ours = new_decoder(base, seed=1)
    export(tmp_path / "ours", ours, base)
    model = transformers.LlamaForCausalLM.from_pretrained(base.path)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.05, target_modules=list(LINEAR_MODULES),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "theirs")
    one, other = (
        safetensors.torch.load_file(tmp_path / name / "adapter_model.safetensors")
        for name in ("ours", "theirs")
    )
    assert {n: (t.shape, t.dtype) for n, t in one.items()} == {
        n: (t.shape, t.dtype) for n, t in other.items()
    }
    said, theirs = (
        json.loads((tmp_path / name / "adapter_config.json").read_text(encoding="utf-8"))
        for name in ("ours", "theirs")
    )
    assert set(said) <= set(theirs)
    assert set(said.pop("target_modules")) == set(theirs.pop("target_modules"))
    assert said == {key: theirs[key] for key in said}
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize(
    ("ref", "name", "revision"),
    [
        (("starter", None, "/x/SmolLM2.gguf"), "HuggingFaceTB/SmolLM2-135M-Instruct", None),
        (("owner/code-7b", "abc123", "/cache/x"), "owner/code-7b", "abc123"),
        (("../model", None, "/home/model"), "/home/model", None),
    ],
)
def test_the_base_is_named_so_that_other_tools_find_it(ref, name, revision, base, tmp_path):
    origin = ModelRef(name=ref[0], revision=ref[1], path=ref[2], digest="")
    export(tmp_path / "adapter", new_decoder(base), origin)
    config = peft.LoraConfig.from_pretrained(tmp_path / "adapter")
    assert (config.base_model_name_or_path, config.revision) == (name, revision)


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_what_is_exported_is_loaded(targets, base, tmp_path):
    lora = LoraSpec(r=3, alpha=7.5, dropout=0.0, target_modules=targets)
    tuned, fresh = new_decoder(base, lora, seed=1), new_decoder(base, lora)
    export(tmp_path / "adapter", tuned, base)
    before = {name: tensor.data_ptr() for name, tensor in fresh.lora_state().items()}
    load_adapter(tmp_path / "adapter", fresh.lora_state(), lora=lora)
    assert same(fresh.lora_state(), tuned.lora_state())
    assert before == {name: tensor.data_ptr() for name, tensor in fresh.lora_state().items()}
    fresh.refresh()
    ids = np.arange(20)
    assert torch.equal(fresh.logits(ids), tuned.logits(ids))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 3}, "says r = 4, and this run has 3"),
        ({"alpha": 9.5}, "says lora_alpha = 8, and this run has 9.5"),
        ({"target_modules": ("q_proj",)}, r"says target_modules = \['down_proj', .*'q_proj'\]:"),
    ],
)
def test_an_adapter_of_other_settings_is_refused(changes, said, base, tmp_path):
    export(tmp_path / "adapter", new_decoder(base, seed=1), base)
    facts = {"r": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": LINEAR_MODULES, **changes}
    lora = LoraSpec(**facts)
    with pytest.raises(RunError, match=said):
        load_adapter(tmp_path / "adapter", new_decoder(base, lora).lora_state(), lora=lora)


@pytest.mark.parametrize("key", ["use_rslora", "use_dora", "fan_in_fan_out"])
def test_an_adapter_that_would_act_otherwise_is_refused(key, base, tmp_path):
    decoder = new_decoder(base, seed=1)
    export(tmp_path / "adapter", decoder, base)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: True}), encoding="utf-8")
    with pytest.raises(RunError, match=f"says {key} = True, and this run has False"):
        load_adapter(tmp_path / "adapter", decoder.lora_state(), lora=SPEC)


def test_an_adapter_of_another_model_is_refused_and_nothing_is_copied(base, tmp_path):
    decoder = new_decoder(base, seed=1)
    state = decoder.lora_state()
    export(tmp_path / "adapter", decoder, base)
    first, last = min(state), max(state)
    cases = {
        "is only in the adapter": {n: torch.zeros_like(t) for n, t in state.items() if n != last},
        "is missing from it": {**state, "model.layers.9.x": torch.zeros(4, 32)},
        r"is \[4, 48\] in it and \[4, 49\] here": {
            **{name: torch.zeros_like(tensor) for name, tensor in state.items()},
            first: torch.zeros(4, 49),
        },
    }
    assert state[first].shape == (4, 48)
    for said, wanted in cases.items():
        before = {name: tensor.clone() for name, tensor in wanted.items()}
        with pytest.raises(RunError, match=f"is of another model .*{said}"):
            load_adapter(tmp_path / "adapter", wanted, lora=SPEC)
        assert same(wanted, before)


DAMAGES = {
    "half of the weights": ("adapter_model.safetensors", lambda data: data[: len(data) // 2]),
    "empty weights": ("adapter_model.safetensors", lambda data: b""),
    "weights of zeros": ("adapter_model.safetensors", lambda data: bytes(len(data))),
    "half of the configuration": ("adapter_config.json", lambda data: data[: len(data) // 2]),
    "a list": ("adapter_config.json", lambda data: b"[]"),
    "not UTF-8": ("adapter_config.json", lambda data: b"\xff" + data),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_said_in_a_sentence(damage, base, tmp_path):
    decoder = new_decoder(base, seed=1)
    export(tmp_path / "adapter", decoder, base)
    name, change = DAMAGES[damage]
    path = tmp_path / "adapter" / name
    path.write_bytes(change(path.read_bytes()))
    before = {name: tensor.clone() for name, tensor in decoder.lora_state().items()}
    with pytest.raises(RunError, match=f"The adapter {tmp_path / 'adapter'} (is damaged|says)"):
        load_adapter(tmp_path / "adapter", decoder.lora_state(), lora=SPEC)
    assert same(decoder.lora_state(), before)


def test_a_missing_adapter_is_said_in_a_sentence(base, tmp_path):
    with pytest.raises(RunError, match=r"cannot be read \(No such file"):
        load_adapter(tmp_path / "adapter", new_decoder(base).lora_state(), lora=SPEC)


def test_a_folder_that_is_no_adapter_is_not_replaced(base, tmp_path):
    (tmp_path / "adapter").mkdir()
    export(tmp_path / "adapter", new_decoder(base), base)  # an empty one is nobody's
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("thesis", "file"):
        with pytest.raises(RunError, match="exists and is not an adapter"):
            export(tmp_path / name, new_decoder(base), base)
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


class Power(BaseException):
    """The process ends here: nothing after it runs, not even the clean-up."""


class FaultyDisk:
    """Counts what an export asks of the operating system, and fails at call number ``fail_at``."""

    def __init__(self, monkeypatch, fail_at, fault):
        self.calls, self.fail_at, self.fault, self.dead = 0, fail_at, fault, False
        for owner, name in (
            (Path, "open"), (Path, "mkdir"), (Path, "replace"), (os, "fsync"), (shutil, "rmtree"),
            (Path, "unlink"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, function):
        def call(*args, **options):
            # A clean-up is no call to fail, but a dead process does none.
            if function.__name__ not in ("rmtree", "unlink") and not self.dead:
                self.calls += 1
                if self.calls == self.fail_at:
                    self.dead = isinstance(self.fault, Power)
                    raise self.fault
            return None if self.dead else function(*args, **options)

        return call


FAULTS = {
    "ENOSPC": OSError(errno.ENOSPC, "No space left on device"),
    "EIO": OSError(errno.EIO, "Input/output error"),
    "power": Power(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_a_whole_adapter_remains(fault, base, tmp_path):
    old, new = new_decoder(base, seed=1), new_decoder(base, seed=2)
    like = new_decoder(base)
    ends = []
    for fail_at in range(1, 40):
        folder = tmp_path / str(fail_at) / "adapter"
        export(folder, old, base)
        with pytest.MonkeyPatch.context() as patch:
            disk = FaultyDisk(patch, fail_at, FAULTS[fault])
            try:
                export(folder, new, base)
                error = None
            except (RepotuneError, Power) as raised:
                error = raised
        load_adapter(folder, like.lora_state(), lora=SPEC)
        ends.append("new" if same(like.lora_state(), new.lora_state()) else "old")
        assert ends[-1] == "new" or same(like.lora_state(), old.lora_state())
        if error is None:
            break
        if fault != "power":
            assert isinstance(error, DiskFull if fault == "ENOSPC" else RunError)
            assert str(folder) in str(error)
        # and the next attempt succeeds, whatever was left
        export(folder, new, base)
        load_adapter(folder, like.lora_state(), lora=SPEC)
        assert same(like.lora_state(), new.lora_state())
        assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
    else:
        pytest.fail("the export never went through")
    assert disk.calls >= 8  # folder; open and fsync of each file; two renames; the last fsync
    assert ends == sorted(ends, reverse=True)  # old until the rename, new from then on
    assert ends[0] == "old"
    assert ends[-1] == "new"
