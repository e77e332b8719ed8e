"""The figures that several tests look at, computed once."""

from functools import cache

from repotune.requirements import collect
from repotune.tables import known_model

CODELLAMA = "codellama/CodeLlama-7b-hf"


@cache
def figures(name=CODELLAMA):
    """All figures of a model of the table."""
    model = known_model(name)
    return collect(model.name, model.shape, model.download_bytes)
