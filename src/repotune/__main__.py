"""``python -m repotune``: the same as the command."""

from repotune.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
