"""The merged model as a GGUF file, quantised as it is written.

Names, permutation and keys are those of llama.cpp's ``convert_hf_to_gguf.py``; which tensor of
Q4_K_M is stored how is ``llama_tensor_get_type_impl`` in its ``llama-quant.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repotune.durable import sync_file
from repotune.errors import ExportError
from repotune.gguf_file import TensorPlan, block_width, quantise, write_gguf
from repotune.llama_cpp import quantise_rows
from repotune.model import WeightSource
from repotune.model.rope import frequencies
from repotune.model.weights import gguf_name, permuted, tensor_shapes
from repotune.records import Quantisation, Shape

FILE_TYPES: Final[Mapping[Quantisation, int]] = {"f16": 1, "q8_0": 7, "q4_k_m": 15}
"""``general.file_type`` (``enum llama_ftype``)."""
NARROWER: Final = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Superblocks hold 256 numbers; where a width is no multiple, these hold 32."""
ROPE_FACTORS: Final = "rope_freqs.weight"
CHUNK_NUMBERS: Final = 2**24
"""What is turned into fp32 at a time."""


def write_model(
    path: Path, source: WeightSource, tokenizer: Mapping[str, Any], *, name: str,
    licence: str | None, quantisation: Quantisation, wrote: Callable[[int], None],
) -> None:  # fmt: skip
    """Write ``source`` to ``path``; ``tokenizer`` is ``tokens.gguf_metadata``'s.

    ``wrote(bytes)`` is told after each tensor, and one tensor is in memory at a time. Raises
    ExportError for a weight that is too large for its type, OSError if the disk refuses.
    """
    shape = source.shape
    plans = tensor_plans(shape, quantisation)

    def data() -> Iterator[npt.NDArray[np.uint8]]:
        for hf_name, stored in zip(tensor_shapes(shape), plans.values(), strict=False):
            tensor = _in_llama_cpps_order(hf_name, source.read(hf_name), shape)
            yield _stored(hf_name, tensor, stored)
            wrote(stored.bytes)
        if ROPE_FACTORS in plans:
            yield quantise(rope_factors(shape).numpy(), "F32")

    write_gguf(
        path,
        architecture=_architecture(shape),
        metadata={**_description(shape, name, licence, quantisation), **tokenizer},
        tensors=plans,
        data=data(),
    )
    sync_file(path)


def model_bytes(shape: Shape, quantisation: Quantisation) -> int:
    """What the tensors take in the file."""
    return sum(plan.bytes for plan in tensor_plans(shape, quantisation).values())


def tensor_plans(shape: Shape, quantisation: Quantisation) -> dict[str, TensorPlan]:
    """llama.cpp's name -> how each tensor is stored, in the order of ``tensor_shapes``."""
    plans = {}
    for hf_name, size in tensor_shapes(shape).items():
        name = gguf_name(hf_name)
        plans[name] = TensorPlan(shape=size, quantisation=_type(name, size, quantisation, shape))
    if shape.rope_scaling is not None and shape.rope_scaling.kind == "llama3":
        plans[ROPE_FACTORS] = TensorPlan(shape=(shape.head_dim // 2,), quantisation="F32")
    return plans


def rope_factors(shape: Shape) -> Tensor:
    """By what each rotary frequency is divided, [head_dim / 2] fp32: Llama 3.1's stretching."""
    exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    return 1.0 / shape.rope_theta**exponent / frequencies(shape)


def _type(name: str, size: tuple[int, ...], quantisation: Quantisation, shape: Shape) -> str:
    if len(size) == 1:
        return "F32"
    if quantisation == "f16":
        return "F16"
    wanted = "Q8_0" if quantisation == "q8_0" else _in_q4_k_m(name, size[-1], shape)
    for kind in (wanted, NARROWER.get(wanted, wanted)):
        if size[-1] % block_width(kind) == 0:
            return kind
    return "F16"


def _in_q4_k_m(name: str, width: int, shape: Shape) -> str:
    """Most are Q4_K; the head, and in half of the layers value and down, have more bits."""
    heads = ("output.weight", "token_embd.weight" if shape.tie_word_embeddings else "")
    if name in heads:
        return "Q8_0" if width % block_width("Q4_K") else "Q6_K"
    _, _, part = name.partition(".")
    number, _, part = part.partition(".")
    if part == "ffn_down.weight" and _more_bits(int(number), shape.num_hidden_layers):
        return "Q6_K"
    if part == "attn_v.weight":
        if _more_bits(int(number), shape.num_hidden_layers):
            return "Q6_K"
        # llama.cpp's 70B: eight heads share a value, so the matrix is small.
        if shape.num_hidden_layers == 80 and shape.num_key_value_heads < shape.num_attention_heads:
            return "Q5_K"
    return "Q4_K"


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _in_llama_cpps_order(name: str, tensor: Tensor, shape: Shape) -> Tensor:
    if shape.model_type == "qwen2":  # rotates halves, as Hugging Face does
        return tensor
    if ".q_proj." in name:
        return permuted(tensor, shape.num_attention_heads)
    if ".k_proj." in name:
        return permuted(tensor, shape.num_key_value_heads)
    return tensor


def _stored(name: str, tensor: Tensor, plan: TensorPlan) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor; a few million numbers at a time are fp32."""
    rows_RW = tensor.reshape(-1, tensor.shape[-1])
    out = np.empty((len(rows_RW), plan.bytes // len(rows_RW)), np.uint8)
    step = max(1, CHUNK_NUMBERS // rows_RW.shape[1])
    needs_llama_cpp = plan.quantisation not in ("F32", "F16", "Q8_0")
    for first in range(0, len(rows_RW), step):
        values = rows_RW[first : first + step].float().numpy()
        if not np.isfinite(values).all() or (
            plan.quantisation == "F16" and np.abs(values).max() > np.finfo(np.float16).max
        ):
            raise ExportError(
                f"{name} has weights that are no numbers, or that 16 bits have no room for: the "
                "training went wrong, so tune again with a lower learning_rate."
            )
        make = quantise_rows if needs_llama_cpp else quantise
        out[first : first + step] = make(values, plan.quantisation)
    return out


def _architecture(shape: Shape) -> str:
    return "qwen2" if shape.model_type == "qwen2" else "llama"


def _description(
    shape: Shape, name: str, licence: str | None, quantisation: Quantisation
) -> dict[str, Any]:
    of_the_model: dict[str, Any] = {
        "context_length": min(
            shape.max_position_embeddings,
            # llama.cpp knows no window here; below it there is nothing to know.
            shape.sliding_window or shape.max_position_embeddings,
        ),
        "embedding_length": shape.hidden_size,
        "block_count": shape.num_hidden_layers,
        "feed_forward_length": shape.intermediate_size,
        "attention.head_count": shape.num_attention_heads,
        "attention.head_count_kv": shape.num_key_value_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": shape.rms_norm_eps,
        "rope.dimension_count": shape.head_dim,
        "rope.freq_base": shape.rope_theta,
        "vocab_size": shape.vocab_size,
    }
    if shape.rope_scaling is not None and shape.rope_scaling.kind == "linear":
        of_the_model["rope.scaling.type"] = "linear"
        of_the_model["rope.scaling.factor"] = shape.rope_scaling.factor
    architecture = _architecture(shape)
    return {
        "general.type": "model",
        "general.name": name,
        **({"general.license": licence} if licence else {}),
        "general.file_type": FILE_TYPES[quantisation],
        "general.quantization_version": 2,
        **{f"{architecture}.{key}": value for key, value in of_the_model.items()},
    }
