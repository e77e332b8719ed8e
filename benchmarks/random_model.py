"""A checkpoint in Hugging Face layout with random weights, for what reads one from a disk.

    python benchmarks/random_model.py .bench/CodeLlama-7b-hf
    python benchmarks/random_model.py --model codellama/CodeLlama-13b-hf --layers 4 FOLDER

bf16 in shards of up to 10 GB, as published checkpoints have them, written tensor by tensor; beside
them a made-up tokenizer of the model's vocabulary, since peers refuse a folder without one.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from settings import CODELLAMA_7B
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from repotune.model.weights import INDEX_FILE, tensor_shapes
from repotune.tables import known_model

SHARD_BYTES = 10 * 10**9


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=CODELLAMA_7B, help="whose shape")
    parser.add_argument("--layers", type=int, help="instead of the model's")
    args = parser.parse_args()
    shape = known_model(args.model).shape
    if args.layers:
        shape = dataclasses.replace(shape, num_hidden_layers=args.layers)
    write_model(args.folder, shape)


def write_model(folder, shape, shard_bytes=SHARD_BYTES):
    """Write the model into ``folder``; a folder that is there already is left as it is."""
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    shards = in_shards(tensor_shapes(shape), shard_bytes)
    weight_map = {}
    for number, sizes in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / name, sizes, generator)
        weight_map |= dict.fromkeys(sizes, name)
    total = sum(map(bytes_of, tensor_shapes(shape).values()))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index), "utf-8")
    write_tokenizer(folder, shape)
    (folder / "config.json").write_text(json.dumps(config_of(shape)), "utf-8")  # whole with it


def bytes_of(size):
    return 2 * torch.Size(size).numel()


def in_shards(sizes, shard_bytes):
    shards, filled = [{}], 0
    for name, size in sizes.items():
        if filled + bytes_of(size) > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = size
        filled += bytes_of(size)
    return shards


def write_shard(path, sizes, generator):
    """Safetensors: the header's length in 8 bytes, the header as JSON, then the numbers."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, size in sizes.items():
        start, end = end, end + bytes_of(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for size in sizes.values():
            tensor = torch.ones(size, dtype=torch.bfloat16)
            if len(size) > 1:
                tensor = torch.randn(
                    size, generator=generator, device=generator.device, dtype=torch.bfloat16
                )
                tensor = tensor.mul_(0.02).cpu()
            file.write(tensor.view(torch.uint8).numpy().data)


def config_of(shape):
    fields = dataclasses.asdict(shape)
    assert shape.model_type == "llama" and not shape.qkv_bias and shape.rope_scaling is None
    for ours in ("qkv_bias", "o_bias", "rope_scaling", "sliding_window"):
        del fields[ours]
    rope = {"rope_type": "default", "rope_theta": shape.rope_theta}
    return fields | {
        "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "rope_parameters": rope,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def write_tokenizer(folder, shape):
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [f"▁t{i}" for i in range(shape.vocab_size - len(names))]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    settings = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.max_position_embeddings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


if __name__ == "__main__":
    main()
