"""The trial passes a layer that computes rightly and names what is wrong with any other."""

import pytest
import torch

from repotune.machine import RandomWeights, judge_layer, try_layer
from repotune.machine.trial import LayerTrial
from repotune.model import Decoder
from repotune.model.weights import tensor_shapes
from repotune.records import LINEAR_MODULES, LoraSpec

from .machines import HEALTHY


def build(weights: RandomWeights, device: str, dtype: torch.dtype = torch.float32) -> Decoder:
    lora = LoraSpec(r=8, alpha=16.0, dropout=0.0, target_modules=LINEAR_MODULES)
    return Decoder(weights, lora=lora, dtype=dtype, device=device, use_4bit=True)


class Scaled(RandomWeights):
    """Weights that are not those of the reference."""

    def read(self, name: str) -> torch.Tensor:
        return super().read(name) * 1.5


def test_the_weights_are_those_that_the_architecture_asks_for() -> None:
    weights = RandomWeights()
    found = {name: tuple(weights.read(name).shape) for name in weights.names()}
    assert found == tensor_shapes(weights.shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_layer_in_16_bits_passes_beside_fp32(dtype: torch.dtype) -> None:
    dtypes = iter((torch.float32, dtype))
    trial = try_layer(lambda weights, device: build(weights, device, next(dtypes)), "cpu")
    assert trial.error == ""
    assert trial.milliseconds > 0
    assert judge_layer(HEALTHY, trial, "en").finding == "ok"


def test_a_layer_that_computes_something_else_is_found_out() -> None:
    sources = iter((RandomWeights(), Scaled()))
    trial = try_layer(lambda _, device: build(next(sources), device), "cpu")
    assert "loss" in trial.error or "gradients" in trial.error


def test_whatever_breaks_is_the_finding() -> None:
    def broken(weights: RandomWeights, device: str) -> Decoder:
        raise RuntimeError("CUDA error: no kernel image is available\nmore lines")

    trial = try_layer(broken, "cpu")
    assert trial == LayerTrial(milliseconds=0.0, error="CUDA error: no kernel image is available")
    check = judge_layer(HEALTHY, trial, "en")
    assert check.finding == "missing"
    assert "no kernel image" in check.reason
    assert str(check.fix).endswith("/cu130")


@pytest.mark.gpu
def test_a_layer_passes_on_the_gpu() -> None:
    def of_a_run(weights: RandomWeights, device: str) -> Decoder:
        return build(weights, device, torch.bfloat16 if device == "cuda" else torch.float32)

    assert try_layer(of_a_run, "cuda").error == ""
