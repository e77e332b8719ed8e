import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from repotune.model.shape import config_shape, read_shape
from repotune.model.starter import FILE, starter_path
from repotune.records import KnownModel, ModelRef, RopeScaling
from repotune.tables import known_model, models
from repotune.tables.toml_file import read_table

CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
ENTRIES = read_table("models.toml")["model"]


def known(name: str) -> KnownModel:
    model = known_model(name)
    assert model is not None
    return model


def counted(config: dict[str, object], layers: int) -> int:
    """Parameters of transformers' model with so many layers; on no device, so without memory."""
    full = CONFIGS[str(config["model_type"])](**{**config, "num_hidden_layers": layers})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(full)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["names"][0])
def test_an_entry_is_read_as_its_config_json_and_has_the_published_size(
    entry: dict[str, object],
) -> None:
    config = entry["config"]
    assert isinstance(config, dict)
    [name, *_] = entry["names"]
    model = known(name)
    given = {"sliding_window": None, **config}  # null in config.json: TOML has none
    assert config_shape(given, Path("config.json")) == model.shape
    one, two = counted(given, 1), counted(given, 2)
    parameters = one + (two - one) * (model.shape.num_hidden_layers - 1)
    assert parameters == model.parameters
    if name != "starter":
        assert model.download_bytes == pytest.approx(2 * parameters, rel=0.02)
    assert model.source
    assert date(2023, 1, 1) <= date.fromisoformat(model.date) <= date(2026, 12, 31)
    assert model.licence in {
        "apache-2.0", "llama2", "llama3", "llama3.1", "llama3.2", "deepseek", "qwen-research",
    }  # fmt: skip


def test_a_hub_id_has_one_entry_and_is_never_guessed_at() -> None:
    names = [model.name.lower() for model in models()]
    assert len(set(names)) == len(names)
    assert known("CODELLAMA/codellama-7b-HF") == known("codellama/CodeLlama-7b-hf")
    for near in (
        "CodeLlama-7b-hf",
        "codellama/CodeLlama-7b",
        "7b",
        "",
        "codellama/CodeLlama-70b-hf",
    ):
        assert known_model(near) is None


def test_codellama_has_its_own_vocabularies_and_rotary_base() -> None:
    for size in ("7b", "13b", "34b"):
        for kind in ("-hf", "-Instruct-hf", "-Python-hf"):
            model = known(f"codellama/CodeLlama-{size}{kind}")
            fills = size != "34b" and kind != "-Python-hf"
            assert model.fim is fills
            assert model.shape.vocab_size == (32016 if fills else 32000)
            assert model.shape.rope_theta == 1e6
            assert model.shape.max_position_embeddings == 16384
    assert known("meta-llama/Llama-2-7b-hf").shape.rope_theta == 1e4


def test_llama_2_and_mistral_are_the_defaults_of_their_families() -> None:
    for name, family in (
        ("meta-llama/Llama-2-7b-hf", LlamaConfig()),
        ("mistralai/Mistral-7B-v0.1", MistralConfig()),
    ):
        shape = known(name).shape
        default = config_shape(family.to_dict(), Path("config.json"))
        # The family's defaults for these two are not those of the published checkpoint.
        assert shape == replace(
            default,
            rms_norm_eps=shape.rms_norm_eps,
            max_position_embeddings=shape.max_position_embeddings,
        )


def test_positions_are_stretched_as_published() -> None:
    deepseek = known("deepseek-ai/deepseek-coder-6.7b-base").shape
    assert deepseek.rope_scaling == RopeScaling(kind="linear", factor=4.0)
    llama = known("meta-llama/Llama-3.2-1B").shape
    assert llama.rope_scaling == RopeScaling(
        kind="llama3", factor=32.0, original_max_position_embeddings=8192
    )
    assert known("mistralai/Mistral-7B-v0.1").shape.sliding_window == 4096
    assert known("mistralai/Mistral-7B-v0.3").shape.sliding_window is None


def test_the_starter_is_the_file_of_the_package() -> None:
    path = starter_path()
    assert path.name == FILE
    starter = known("starter")
    ref = ModelRef(name="starter", revision=None, path=str(path), digest="")
    assert replace(read_shape(ref), rms_norm_eps=1e-5) == starter.shape
    assert read_shape(ref).rms_norm_eps == pytest.approx(1e-5)
    assert starter.download_bytes == path.stat().st_size


def test_all_models_that_are_asked_for_are_known() -> None:
    names = [
        *(f"deepseek-ai/deepseek-coder-{s}-{k}" for s in ("1.3b", "6.7b", "33b")
          for k in ("base", "instruct")),
        *(f"Qwen/Qwen2.5-Coder-{s}" for s in ("0.5B", "1.5B", "3B", "7B", "14B", "32B")),
        *(f"HuggingFaceTB/SmolLM2-{s}" for s in ("135M", "360M", "1.7B")),
        "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf", "meta-llama/Meta-Llama-3-8B",
        "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B",
        "01-ai/Yi-Coder-1.5B", "01-ai/Yi-Coder-9B", "mistralai/Mistral-7B-v0.1",
        "mistralai/Mistral-7B-v0.3", "starter",
    ]  # fmt: skip
    assert [name for name in names if known_model(name) is None] == []


def test_reading_all_tables_is_quick_and_done_once() -> None:
    code = (
        "import time\n"
        "from repotune.tables import clouds, gpus, models\n"
        "start = time.perf_counter()\n"
        "first = (gpus(), clouds(), models())\n"
        "print(time.perf_counter() - start)\n"
        "assert all(a is b for a, b in zip(first[1:], (clouds(), models())))\n"
        "assert gpus()[0] is first[0][0]\n"
        "import sys; assert 'torch' not in sys.modules\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(3)
    ]
    # The fastest of three: another program on this machine must not decide.
    assert min(float(run.stdout) for run in runs) < 0.05


def test_models_of_code_are_told_from_general_ones() -> None:
    for model in models():
        named_so = any(word in model.name for word in ("CodeLlama", "Coder", "coder"))
        assert model.code == named_so, model.name
        assert model.code or not model.fim
