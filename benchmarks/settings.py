"""What a benchmark of the GPU engine is asked to measure, as text.

BATCHxLENGTH:POLICY with, after colons, any of docs=MEAN, cap=GIB, bf16, r=RANK, adam (its moments
in host memory) and model=ID (CodeLlama-7B where there is none). A policy is what each layer saves
from the first to the last, as ``all*16+outputs/host*16``; ``/host``: where it waits in host memory;
``/wide``: whose 4-bit weights are kept in 16 bits too; no number: all layers.
"""

import math
from dataclasses import dataclass

from repotune.planning import Setup
from repotune.records import LINEAR_MODULES, LayerPolicy, LoraSpec, Policy
from repotune.tables import known_model

CODELLAMA_7B = "codellama/CodeLlama-7b-hf"


@dataclass(frozen=True)
class Setting:
    """One measurement."""

    text: str
    batch: int
    length: int
    saving: str
    docs: int = 0
    cap: float = math.inf
    bf16: bool = False
    r: int = 16
    adam: bool = False
    model: str = CODELLAMA_7B

    @property
    def shape(self):
        return known_model(self.model).shape

    @property
    def lora(self):
        return LoraSpec(r=self.r, alpha=2.0 * self.r, dropout=0.0, target_modules=LINEAR_MODULES)

    @property
    def policy(self):
        layers = []
        for part in self.saving.split("+"):
            what, _, count = part.partition("*")
            saving, _, place = what.partition("/")
            one = LayerPolicy(saving=saving, offloaded=place == "host", expanded=place == "wide")
            layers += [one] * int(count or self.shape.num_hidden_layers)
        return Policy(layers=tuple(layers), reason="", optimizer_offloaded=self.adam)

    @property
    def setup(self):
        """What the planner calls it."""
        tokens = self.batch * self.length
        return Setup(
            shape=self.shape, lora=self.lora, tokens=tokens, itemsize=2, device="cuda",
            use_4bit=not self.bf16,
            documents=tokens // self.docs + self.batch if self.docs else None,
        )  # fmt: skip


def read_setting(text):
    size, saving, *options = text.split(":")
    batch, length = map(int, size.split("x"))
    known = dict(one.partition("=")[::2] for one in options)
    return Setting(
        text=text, batch=batch, length=length, saving=saving, docs=int(known.get("docs", 0)),
        cap=float(known.get("cap", math.inf)), bf16="bf16" in known, r=int(known.get("r", 16)),
        adam="adam" in known, model=known.get("model", CODELLAMA_7B),
    )  # fmt: skip
