"""A byte-level tokenizer, and two small models: random, and a table of bigrams."""

import json
from dataclasses import dataclass
from itertools import pairwise

import tokenizers
import torch
import transformers

from repotune.model import Decoder, open_weights
from repotune.records import LINEAR_MODULES, Document, LoraSpec, ModelRef
from repotune.tokens import CodeTokenizer, load_tokenizer

EOS, BOS, FIM, BYTES, VOCAB = 0, 1, (2, 3, 4), 5, 264
FIM_TOKENS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")  # StarCoder's
MAX_MERGES = VOCAB - BYTES - 256
LORA = LoraSpec(r=4, alpha=8.0, dropout=0.0, target_modules=LINEAR_MODULES)


def document(path, text):
    return Document(
        path=path, language="Python", text=text, sha256="", cluster=0, split="heldout",
        encoding="utf-8",
    )  # fmt: skip


def make_tokenizer(folder, *, merges=(), bos=False, fim=False) -> CodeTokenizer:
    """Id ``BYTES + b`` for byte ``b``, then the merges (pairs of ASCII texts) from 261 on."""
    shown = dict(zip(_order(), _alphabet(), strict=True))
    pairs = [tuple("".join(shown[b] for b in part.encode()) for part in pair) for pair in merges]
    specials = ["<|endoftext|>", "<s>", *(FIM_TOKENS if fim else ("<u0>", "<u1>", "<u2>"))]
    vocab = {token: number for number, token in enumerate(specials)}
    vocab |= {shown[byte]: BYTES + byte for byte in range(256)}
    vocab |= {left + right: BYTES + 256 + i for i, (left, right) in enumerate(pairs)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.add_special_tokens(specials)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"add_bos_token": bos, "bos_token": "<s>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return load_tokenizer(folder)


def _order():
    """Bytes in the order of their characters in GPT-2's alphabet: printable ones, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*printable, *(byte for byte in range(256) if byte not in printable)]


def _alphabet():
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def open_decoder(folder, *, lora=LORA, dtype=torch.float32) -> Decoder:
    ref = ModelRef(name="tiny", revision=None, path=str(folder), digest="")
    return Decoder(open_weights(ref), lora=lora, dtype=dtype)


def random_model(folder):
    """A random Llama as transformers has it, saved in ``folder``."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).float().eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.3, 0.3).add_(1.0 if parameter.dim() == 1 else 0.0)
    model.save_pretrained(folder)
    return model


def randomise(decoder, seed=1):
    """An adapter that does something."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in decoder.lora_state().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    decoder.refresh()


@dataclass(frozen=True)
class Bigrams:
    """A model that writes after token ``a`` always ``base[a]``, or, adapted, what ``tuned`` says.

    Embeddings are one-hot, attention and MLP add nothing, the head is the table. The adapter of
    down_proj swaps a token for another one on its way to the head.
    """

    base: dict
    tuned: dict

    def decoder(self, folder) -> Decoder:
        config = transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=VOCAB, intermediate_size=VOCAB, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).float().eval()
        for parameter in model.parameters():
            parameter.data.fill_(1.0 if parameter.dim() == 1 else 0.0)
        mlp = model.model.layers[0].mlp
        model.model.embed_tokens.weight.data.fill_diagonal_(1.0)
        mlp.gate_proj.weight.data.fill_diagonal_(1.0)
        mlp.up_proj.weight.data.fill_diagonal_(1.0)
        for token, following in self.base.items():
            model.lm_head.weight.data[following, token] = 1.0
        model.save_pretrained(folder)
        lora = LoraSpec(r=8, alpha=8.0, dropout=0.0, target_modules=("down_proj",))
        decoder = open_decoder(folder, lora=lora)
        a, b = decoder.lora_state().values()
        a.zero_()
        for rank, (token, instead) in enumerate(self.tuned.items()):
            a[rank, token] = 1.0
            b[instead, rank] = 1.0
        decoder.refresh()
        return decoder


def chain(*texts):
    """Bigrams under which each text's characters follow one another."""
    return {BYTES + ord(a): BYTES + ord(b) for text in texts for a, b in pairwise(text)}
