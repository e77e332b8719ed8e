"""Into other people's formats: the adapter as PEFT reads it, the merged model, GGUF, a Modelfile.

``peft`` is also how a run keeps its adapter. ``merge`` adds it into the base's weights, tensor by
tensor; ``merged`` and ``gguf`` write what comes out; ``proof`` asks the program that an export is
for what it computes from it.
"""

from repotune.export.gguf import model_bytes, write_model
from repotune.export.merge import MergedWeights, adapter_shapes
from repotune.export.merged import merged_bytes, sixteen_bits, write_merged
from repotune.export.ollama import MODELFILE, modelfile
from repotune.export.passages import passage_ids, read_by_us
from repotune.export.peft import export_adapter, load_adapter, read_adapter
from repotune.export.proof import (
    ask_llama_cpp,
    ask_transformers,
    how_to_check,
    refuse_drift,
    why_other_tokens,
)
from repotune.export.quantiser import find_program, run_program, write_quantised
from repotune.export.vllm_proof import ask_vllm, ask_vllm_once

__all__ = [
    "MODELFILE",
    "MergedWeights",
    "adapter_shapes",
    "ask_llama_cpp",
    "ask_transformers",
    "ask_vllm",
    "ask_vllm_once",
    "export_adapter",
    "find_program",
    "how_to_check",
    "load_adapter",
    "merged_bytes",
    "model_bytes",
    "modelfile",
    "passage_ids",
    "read_adapter",
    "read_by_us",
    "refuse_drift",
    "run_program",
    "sixteen_bits",
    "why_other_tokens",
    "write_merged",
    "write_model",
    "write_quantised",
]
