"""repotune: tune a code model on your own repository. The public names, nothing else.

They are imported when they are first used, because torch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repotune.config import FineTuningConfig
    from repotune.pipeline import complete, evaluate, resume, tune

    __version__: str

__all__ = ["FineTuningConfig", "__version__", "complete", "evaluate", "resume", "tune"]


def __getattr__(name: str) -> object:
    match name:
        case "FineTuningConfig":
            from repotune.config import FineTuningConfig

            return FineTuningConfig
        case "complete":
            from repotune.pipeline import complete

            return complete
        case "evaluate":
            from repotune.pipeline import evaluate

            return evaluate
        case "resume":
            from repotune.pipeline import resume

            return resume
        case "tune":
            from repotune.pipeline import tune

            return tune
        case "__version__":
            from importlib.metadata import version

            return version("repotune")
        case _:
            raise AttributeError(f"module 'repotune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
