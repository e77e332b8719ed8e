"""Small random models of each family in Hugging Face layout, with a tokenizer and an adapter."""

import json
from pathlib import Path

import tokenizers
import torch
import transformers

from repotune.export import export_adapter
from repotune.model import Decoder, open_weights
from repotune.records import LINEAR_MODULES, LoraSpec, ModelRef

SPEC = LoraSpec(r=4, alpha=8.0, dropout=0.0, target_modules=LINEAR_MODULES)
SPECIALS = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
MERGES = (
    ("Ġ", "Ġ"),
    ("ĠĠ", "ĠĠ"),
    ("e", "r"),
    ("i", "n"),
    ("r", "e"),
    ("o", "n"),
    ("t", "er"),
    ("Ġ", "re"),
)
EOS = 256 + len(MERGES)
VOCAB = 272  # bytes, merges, the special tokens, and rows that no token has
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "llama (GQA)": ("Llama", GQA),
    "llama (tied, bias)": (
        "Llama",
        {**GQA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama (linear rope, wide heads)": (
        "Llama",
        {
            **GQA,
            "head_dim": 32,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5},
        },
    ),
    "llama 3.1 (scaled rope)": (
        "Llama",
        {
            **GQA,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        },
    ),
    "mistral": ("Mistral", {**GQA, "sliding_window": None}),
    "qwen2 (tied)": ("Qwen2", {**GQA, "tie_word_embeddings": True}),
}  # fmt: skip


def write_model(
    folder: Path, family="llama (GQA)", *, layers=2, dtype=torch.float32, wide=0.1, **sizes
):
    """A random model whose logits depend on every weight: norms too, and biases."""
    kind, options = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": layers, "max_position_embeddings": 512,
            "bos_token_id": None, "eos_token_id": EOS, **options, **sizes,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float()
    for parameter in model.parameters():
        is_matrix = parameter.dim() > 1
        reach = wide if is_matrix else 0.3
        parameter.data.uniform_(-reach, reach).add_(0.0 if is_matrix else 1.0)
    model.to(dtype).save_pretrained(folder)
    write_tokenizer(folder)
    return ModelRef(name=str(folder), revision=None, path=str(folder), digest="")


def write_tokenizer(folder: Path, *, specials=SPECIALS) -> None:
    """One id a byte, a few merges, and Qwen2.5-Coder's tokens to fill in the middle."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: number for number, character in enumerate(alphabet)}
    vocab |= {left + right: 256 + place for place, (left, right) in enumerate(MERGES)}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=list(MERGES)))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(list(specials))
    library.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": SPECIALS[0], "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def adapted(base: ModelRef, *, lora=SPEC, seed=1, wide=0.1) -> Decoder:
    """Our decoder with an adapter that does something."""
    decoder = Decoder(open_weights(base), lora=lora, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for tensor in decoder.lora_state().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * wide)
    decoder.refresh()
    return decoder


def save_adapter(folder: Path, decoder: Decoder, base: ModelRef) -> Path:
    export_adapter(folder, decoder.lora_state(), lora=decoder.lora, base=base)
    return folder


def relative(got, want) -> float:
    return float((got - want).norm() / want.norm())
