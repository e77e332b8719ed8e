"""What a whole run on a tiny model is made of."""

from repotune import FineTuningConfig


def settings(base, output_dir, **changes):
    return FineTuningConfig(
        **{
            "model": str(base),
            "output_dir": output_dir,
            "max_seq_length": 128,
            "batch_size": 4,
            "gradient_accumulation_steps": 1,
            "max_steps": 6,
            "save_steps": 2,
            "learning_rate": 3e-2,
            "precision": "fp32",
            "eval_max_tokens": 3000,
            **changes,
        }
    )
