"""Training steps of transformers + peft, in 4 bits with bitsandbytes, and of Liger's kernels in it.

    python benchmarks/peers/run_transformers.py --liger 4x2048:default 4x2048:all
    python benchmarks/peers/run_transformers.py --liger 8x2048:default:bf16 4x2048:all:bf16
    python benchmarks/peers/run_transformers.py --liger 4x2048:default:docs=700

Adapters in bf16 over 4-bit weights, as TRL has them, and in fp32 over bf16 ones, which is PEFT's
default. Packed documents are told apart by their positions, from which transformers makes the mask
(sdpa, flex_attention) or the bounds (flash_attention_2, which needs the package flash-attn).
"""

import gc

import torch
from contest import checkpoint, contend, parser_of, stir
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from repotune.records import LINEAR_MODULES

FLASH = "flash_attention_2"


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--liger", action="store_true", help="with Liger's kernels")
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "flex_attention", FLASH))
    args = parser.parse_args()
    system = "transformers + peft" + (" + Liger" if args.liger else "")
    loaded, model = None, None
    for setting in args.settings:
        wanted = setting.model, setting.r, setting.bf16
        if wanted != loaded:
            model = None
            gc.collect()
            model, loaded = load(args, setting), wanted
        choose_recompute(model, setting.saving)
        loss = loss_of(model, setting, args.attention)
        contend(system, setting, args, model, loss, attention=args.attention)


def load(args, setting):
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(
        checkpoint(args, setting), dtype=torch.bfloat16, device_map={"": 0},
        attn_implementation=args.attention,
        quantization_config=None if setting.bf16 else four_bits,
    )  # fmt: skip
    base.config.use_cache = False
    if args.liger:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(
            model=base, rope=True, rms_norm=True, swiglu=True, fused_linear_cross_entropy=True
        )
    lora = LoraConfig(
        r=setting.r, lora_alpha=2 * setting.r, target_modules=list(LINEAR_MODULES),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(base, lora, autocast_adapter_dtype=setting.bf16)
    if not setting.bf16:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    stir(model)
    return model.train()


def choose_recompute(model, saving):
    if saving == "default":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    elif saving == "all":
        model.gradient_checkpointing_disable()
    else:
        raise SystemExit(f"transformers checkpoints all layers (default) or none (all): {saving}")


def loss_of(model, setting, attention):
    def whole_rows(batch):
        return model(input_ids=batch.input_ids, labels=batch.labels).loss

    def packed(batch):
        # Bounds are found in a single row only, and a mask is smallest row by row.
        one = batch.as_one_row() if attention == FLASH else batch
        return model(input_ids=one.input_ids, labels=one.labels, position_ids=one.position_ids).loss

    return packed if setting.docs else whole_rows


if __name__ == "__main__":
    main()
