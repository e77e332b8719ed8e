"""The script to edit and run: `python tuning.py`.

It does what `repotune tune PATH` does. Every setting is a field of FineTuningConfig;
`repotune tune --help` says what each one is for.
"""

import sys

from repotune import FineTuningConfig, tune
from repotune.cli.progress import show_progress
from repotune.cli.show import tune_text
from repotune.errors import RepotuneError

TREE = "path/to/your/repository"


def main() -> int:
    """Tune on TREE with these settings; the exit code is 0, 1 or 2 as on the command line."""
    try:
        config = FineTuningConfig(
            batch_size=4,
            gradient_accumulation_steps=4,
            max_seq_length=2048,
            use_4bit=True,
            lora_r=16,
            gradient_checkpointing=True,
        )
        with show_progress() as emit:
            result = tune(TREE, config, emit=emit)
    except RepotuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(tune_text(result))
    return 1 if result.interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main())
