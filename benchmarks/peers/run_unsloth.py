"""Training steps of Unsloth.

    python benchmarks/peers/run_unsloth.py 4x2048:default 4x2048:all "4x2048:default*16+all*16"
    python benchmarks/peers/run_unsloth.py 1x1024:default 1x1024:all 1x2048:default 1x2048:all
    python benchmarks/peers/run_unsloth.py 4x2048:default:docs=700 4x2048:all:docs=700

``default`` is its own checkpointing, ``use_gradient_checkpointing="unsloth"``. Packed documents are
one row with their positions and ``packed_seq_lengths``, as its own collator hands them over. It
compiles again at each new shape, within the warm-up.
"""

import os

# As it is imported it asks the hub, counts its users, and writes what it compiles into this folder.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", ".bench/unsloth")

import unsloth  # isort: skip - before torch and transformers, which it patches

import gc

import torch
from contest import checkpoint, contend, parser_of, stir

from repotune.records import LINEAR_MODULES


def main():
    args = parser_of(__doc__).parse_args()
    loaded, model = None, None
    for setting in args.settings:
        wanted = setting.model, setting.r, setting.bf16, layers_kept(setting)
        if wanted != loaded:
            model = None
            gc.collect()
            model, loaded = load(args, setting), wanted
        # False switches it off in all layers, "unsloth" on in those that were not left out.
        unsloth.FastLanguageModel.for_training(
            model, use_gradient_checkpointing=False if setting.saving == "all" else "unsloth"
        )
        contend(
            "Unsloth", setting, args, model, loss_of(model, setting), version=unsloth.__version__
        )


def layers_kept(setting):
    """How many layers are left out of checkpointing while others are not."""
    if setting.saving in ("default", "all"):
        return 0
    counts = dict(part.split("*") for part in setting.saving.split("+"))
    return int(counts["all"])


def load(args, setting):
    model, _ = unsloth.FastLanguageModel.from_pretrained(
        str(checkpoint(args, setting)), max_seq_length=max(one.length for one in args.settings),
        dtype=torch.bfloat16, load_in_4bit=not setting.bf16, local_files_only=True,
    )  # fmt: skip
    model = unsloth.FastLanguageModel.get_peft_model(
        model, r=setting.r, lora_alpha=2 * setting.r, lora_dropout=0, bias="none",
        target_modules=list(LINEAR_MODULES), use_gradient_checkpointing="unsloth",
        random_state=3407, checkpoint_skip_layers=layers_kept(setting),
    )  # fmt: skip
    stir(model)
    return model


def loss_of(model, setting):
    def whole_rows(batch):
        return model(
            input_ids=batch.input_ids, labels=batch.labels, num_items_in_batch=batch.targets
        ).loss

    def packed(batch):
        one = batch.as_one_row()
        return model(
            input_ids=one.input_ids, labels=one.labels, position_ids=one.position_ids,
            packed_seq_lengths=one.lengths, num_items_in_batch=one.targets,
        ).loss  # fmt: skip

    return packed if setting.docs else whole_rows


if __name__ == "__main__":
    main()
