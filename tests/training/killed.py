"""A child process of ``test_killed.py``: trains the tiny model and goes on from what is there.

    python killed.py FOLDER STEPS

It prints a character for each event, so that the parent can kill it anywhere in between.
"""

import sys
from pathlib import Path

from tiny import TinyModel, TinyRows, settings

from repotune.training import latest, load, train


def main() -> None:
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    model = TinyModel(dropout=0.3)
    path = latest(folder, lambda event: sys.exit(f"damaged: {event}"))
    start = path and load(path, like=model.lora_state(), fingerprint="tiny")

    def tell(event):
        sys.stdout.write(".")
        sys.stdout.flush()

    options = {"steps": steps, "save_steps": 1, "dropout": True, "emit": tell}
    train(model, TinyRows(), **settings(folder, resume_from=start, **options))


if __name__ == "__main__":
    main()
