"""The base model with its adapter added into the weights, one tensor at a time, on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from repotune.model import WeightSource
from repotune.model.new_tokens import EMBEDDING, HEAD, SUFFIX
from repotune.model.weights import tensor_shapes
from repotune.records import LoraSpec, Shape


class MergedWeights:
    """A WeightSource: W + scale · B A in fp32 where a matrix is adapted, trained rows where tokens
    are new, else what the base has.

    Nothing is kept: a tensor is read and merged when it is asked for.
    """

    def __init__(
        self, base: WeightSource, adapter: Mapping[str, Tensor], *, lora: LoraSpec
    ) -> None:
        self._base, self._adapter, self._lora = base, adapter, lora

    @property
    def shape(self) -> Shape:
        """See WeightSource."""
        return self._base.shape

    def names(self) -> Collection[str]:
        """See WeightSource."""
        return self._base.names()

    def read(self, name: str) -> Tensor:
        """See WeightSource."""
        weight = self._base.read(name)
        module = name.removesuffix(".weight")
        rows_ND = self._adapter.get(f"{module}.{SUFFIX}")
        if rows_ND is not None:
            weight = weight.float()
            weight[list(self._lora.trainable_token_indices)] = rows_ND
            return weight
        a_RK = self._adapter.get(f"{module}.lora_A.weight")
        if a_RK is None:
            return weight
        b_OR = self._adapter[f"{module}.lora_B.weight"]
        return weight.float().addmm_(b_OR, a_RK, alpha=self._lora.scale)


def adapter_shapes(shape: Shape, lora: LoraSpec) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the matrices of an adapter, as ``Decoder.lora_state`` has them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, size in tensor_shapes(shape).items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module.rpartition(".")[2] in lora.target_modules:
            outputs, inputs = size
            shapes[f"{module}.lora_A.weight"] = (lora.r, inputs)
            shapes[f"{module}.lora_B.weight"] = (outputs, lora.r)
    if lora.trainable_token_indices:
        tables = (EMBEDDING,) if shape.tie_word_embeddings else (EMBEDDING, HEAD)
        size = (len(lora.trainable_token_indices), shape.hidden_size)
        shapes |= {f"{table}.{SUFFIX}": size for table in tables}
    return shapes
