"""What the tests of planning share: CodeLlama-7B, its adapters, policies, and one known machine."""

import torch

from repotune.model.weights import tensor_shapes
from repotune.planning import Setup
from repotune.planning.rates import Rates
from repotune.records import LINEAR_MODULES, LayerPolicy, LoraSpec, Policy
from repotune.tables import known_model

CODELLAMA = known_model("codellama/CodeLlama-7b-hf")
assert CODELLAMA is not None
SHAPE = CODELLAMA.shape
LORA = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
MEASURED_H100 = Rates(
    matmul_flops=676e12,
    attention_flops=0.73 * 676e12,
    bandwidth=0.85 * 2.98e12,
    host_to_device=54e9,
    operation_seconds=28e-6,
)
"""Of the machine that the measured points are from, by ``repotune calibrate``."""


def setup(tokens, *, shape=SHAPE, lora=LORA, itemsize=2, device="cuda", use_4bit=True):
    return Setup(
        shape=shape, lora=lora, tokens=tokens, itemsize=itemsize, device=device, use_4bit=use_4bit
    )


def policy(saving, *, layers=32, offloaded=0):
    return Policy(
        layers=tuple(
            LayerPolicy(saving=saving, offloaded=index < offloaded) for index in range(layers)
        ),
        reason="",
    )


class RandomWeights:
    def __init__(self, shape):
        self.shape, self.sizes = shape, tensor_shapes(shape)

    def names(self):
        return self.sizes

    def read(self, name):
        generator = torch.Generator().manual_seed(len(name))
        return torch.randn(self.sizes[name], generator=generator) * 0.02
