"""What ``doctor`` asks of a machine is what the planner says that ``tune`` needs there."""

from dataclasses import replace

import pytest

from repotune import preflight
from repotune.config import FineTuningConfig
from repotune.events import ignore
from repotune.job import quantised_folder
from repotune.machine import precision_here, probe
from repotune.machine.facts import DiskFacts, GpuFacts, MachineFacts, TorchFacts
from repotune.machine.triton import TritonFault
from repotune.model import resolve_model
from repotune.planning import gpu_context, machine_target, suited_config
from repotune.planning.fit import fit
from repotune.records import Machine
from repotune.tables import find_gpu, known_model

GIB = 2**30
CODELLAMA = known_model("codellama/CodeLlama-7b-hf")
RTX_3060 = GpuFacts(
    name="NVIDIA GeForce RTX 3060", uuid="GPU-1", compute_capability=(8, 6),
    memory_bytes=12 * GIB, free_bytes=11 * GIB, processes=(),
)  # fmt: skip
FACTS = MachineFacts(
    system="linux", system_name="Linux", distribution=("debian",), executable="python",
    python=(3, 12, 4), cpu="CPU", cores=8, ram_bytes=32 * GIB, ram_free_bytes=20 * GIB,
    torch=TorchFacts(version="2.13.0+cu130", cuda_build=(13, 0), cudnn="9", architectures=(),
                     sees_gpu=True),
    torch_error="", cpu_bf16=True, nvidia_hardware=True, driver="580.65.06", gpu=RTX_3060,
    disks=(DiskFacts(purpose="runs", path="/", drive=1, free_bytes=10**12, kind="ssd"),),
    bitsandbytes=None, triton=None,
)  # fmt: skip


@pytest.fixture
def own_hub(tmp_path, monkeypatch):
    """A hub cache with no model in it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def tune_starts(facts, gpu_free_bytes):
    """Whether the settings that `tune` takes with so much free memory fit."""
    machine = Machine(
        platform="", python="", torch="", cpu="", cores=8, ram_bytes=facts.ram_bytes,
        ram_free_bytes=facts.ram_free_bytes, gpu=facts.gpu.name, gpu_free_bytes=gpu_free_bytes,
        bf16=True, triton=facts.has_triton,
    )  # fmt: skip
    target = machine_target(machine, find_gpu("RTX 3060").gpu, None)
    config = suited_config(CODELLAMA.name, CODELLAMA.shape, target, FineTuningConfig())
    return fit(CODELLAMA.shape, config, target).verdict != "does_not_fit"


@pytest.mark.parametrize(
    ("triton", "fault"),
    [(None, None), ("3.6.0", None), ("3.6.0", TritonFault(key="triton_no_compiler"))],
)
@pytest.mark.parametrize("ram_free_gib", [20, 2, 0])
def test_the_least_memory_is_where_tune_begins_to_start(ram_free_gib, triton, fault, own_hub):
    facts = replace(FACTS, ram_free_bytes=ram_free_gib * GIB, triton=triton, triton_fault=fault)
    needs = preflight.main_job(facts)
    assert tune_starts(facts, needs.vram_bytes + 2)
    assert not tune_starts(facts, needs.vram_bytes - GIB // 100)


def test_a_gpu_that_no_table_knows_is_judged_with_a_large_context(own_hub):
    known, unknown = (
        preflight.main_job(replace(FACTS, gpu=replace(RTX_3060, name=name))).vram_bytes
        for name in (RTX_3060.name, "NVIDIA GeForce RTX 9999")
    )
    row = find_gpu("RTX 3060").gpu
    wider = gpu_context(None, None).expected - gpu_context(row, None).expected
    assert unknown - known == pytest.approx(wider, abs=2)


@pytest.mark.parametrize(
    ("name", "gib", "model"),
    [
        ("NVIDIA GeForce RTX 2060", 6, "codellama/CodeLlama-7b-Python-hf"),
        ("NVIDIA GeForce RTX 9999", 4, "starter"),
    ],
)
def test_a_gpu_that_is_too_small_is_offered_what_fits_on_it(name, gib, model, own_hub):
    card = replace(RTX_3060, name=name, memory_bytes=gib * GIB, free_bytes=gib * GIB)
    assert preflight.main_job(replace(FACTS, gpu=card)).smaller_model == model


def test_the_weights_in_4_bits_are_counted_beside_the_download(own_hub):
    needs = preflight.main_job(FACTS)
    assert needs.model_disk_bytes == CODELLAMA.download_bytes
    # 6.48 G parameters of the linears at 0.5159 byte.
    assert needs.cache_disk_bytes == pytest.approx(3.34e9, rel=0.01)
    # Four checkpoints of 40 M parameters at 12 bytes, the adapter at 4, the corpus.
    assert 2.0e9 < needs.run_disk_bytes < 2.7e9


def test_without_a_gpu_only_the_run_needs_room(own_hub):
    needs = preflight.main_job(
        replace(FACTS, gpu=None, driver=None, nvidia_hardware=False, torch=None)
    )
    assert (needs.model, needs.on_gpu, needs.vram_bytes) == ("starter", False, 0)
    assert (needs.model_disk_bytes, needs.cache_disk_bytes) == (0, 0)
    assert needs.run_disk_bytes > 10**8


def test_weights_that_an_earlier_run_has_kept_are_found(tiny_model):
    base = resolve_model(str(tiny_model), revision=None, offline=True, cache=None, emit=ignore)
    assert preflight.kept_bytes(base) == 0
    folder = quantised_folder(base, precision_here("auto", probe()))
    folder.mkdir(parents=True)
    (folder / "layer-000.safetensors").write_bytes(b"x" * 10_000)
    assert preflight.kept_bytes(base) == 10_000
