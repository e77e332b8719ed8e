"""Memory on tensors of a real 7B's sizes, two layers of them: nothing but one tensor is held."""

import json
import struct
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest

from repotune.model.weights import tensor_shapes
from repotune.records import Shape
from repotune.tables import known_model

from ..tokens.vocabularies import write_codellama

BOUND = 4 * 10**9
LAYERS = 2
EXPORT = """
import sys, threading, time
from pathlib import Path
import torch
from repotune.export import MergedWeights, adapter_shapes, write_merged, write_model
from repotune.model import open_weights
from repotune.records import LINEAR_MODULES, LoraSpec, ModelRef
from repotune.tokens import gguf_metadata, load_tokenizer

base, to, out, layers_of_7b = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
ref = ModelRef(name="x", revision=None, path=str(base), digest="")
lora = LoraSpec(r=16, alpha=32.0, dropout=0.0, target_modules=LINEAR_MODULES)
source = open_weights(ref)
shapes = adapter_shapes(source.shape, lora)
adapter = {name: torch.rand(size) * 1e-3 for name, size in shapes.items()}
peak = 0
done = threading.Event()

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.002)

before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
merged = MergedWeights(source, adapter, lora=lora)
if to == "merged":
    write_merged(
        out, merged, ref, load_tokenizer(base), dtype=torch.bfloat16, wrote=lambda count: None
    )
else:
    said = gguf_metadata(base, source.shape.vocab_size)
    write_model(
        out / "model.gguf", merged, said, name="x", licence=None, quantisation=to,
        wrote=lambda count: None,
    )
done.set()
thread.join()
# The adapter of all layers would be in memory: it is known how large.
whole = sum(t.nbytes for t in adapter.values()) // source.shape.num_hidden_layers * layers_of_7b
print(before, peak, peak - sum(t.nbytes for t in adapter.values()) + whole)
"""


@pytest.fixture(scope="module")
def codellama(tmp_path_factory):
    """CodeLlama 7B's widths and vocabulary, two layers of random numbers, in bf16."""
    folder = tmp_path_factory.mktemp("codellama")
    write_codellama(folder)
    shape = known_model("codellama/CodeLlama-7b-hf").shape
    config = {
        "model_type": "llama", "vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size, "num_hidden_layers": LAYERS,
        "num_attention_heads": shape.num_attention_heads, "rope_theta": 1e6,
        "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_random(folder / "model.safetensors", shape)
    return folder


def write_random(path: Path, shape: Shape) -> None:
    sizes = {
        name: size for name, size in tensor_shapes(shape).items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < LAYERS
    }  # fmt: skip
    header, at = {}, 0
    for name, size in sizes.items():
        end = at + 2 * prod(size)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for size in sizes.values():
            values = random.standard_normal(size, np.float32)
            values *= 0.02
            (values.view(np.uint32) >> 16).astype(np.uint16).tofile(file)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="reads RssAnon from /proc")
@pytest.mark.parametrize("to", ["merged", "f16", "q8_0", "q4_k_m"])
def test_a_7b_is_merged_in_less_than_4_gb(to, codellama, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, codellama, to, tmp_path, "32"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    before, peak, for_all_layers = map(int, done.stdout.split()[-3:])
    assert before < peak < for_all_layers < BOUND
