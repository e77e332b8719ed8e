"""``FineTuningConfig``: every choice of the user, checked where it is defined.

The same fields are keyword arguments in Python, keys of a TOML file and flags of the command
line. Whatever is not allowed becomes a :class:`~repotune.errors.ConfigError` that names the key.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from repotune.errors import ConfigError, DoesNotFit
from repotune.records import LINEAR_MODULES
from repotune.tables import find_gpu, find_preset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

LinearModule: TypeAlias = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
]
Kind: TypeAlias = Literal["boolean", "integer", "number", "text", "path", "choice", "list"]


def _in_layer_order(modules: tuple[LinearModule, ...]) -> tuple[LinearModule, ...]:
    """Each module once, in the order of a layer, so that equal choices are equal configurations."""
    return tuple(sorted(set(modules), key=LINEAR_MODULES.index))


def _not_empty(path: object) -> object:
    """An empty path would be the current folder, which nobody means by it."""
    if path == "":
        raise ValueError("empty")
    return path


def _expanded(path: Path) -> Path:
    """With ``~`` as the home folder, which no shell has expanded in a file."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise ValueError(str(error)) from None


Folder: TypeAlias = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_expanded)]


class FineTuningConfig(BaseModel):
    """All choices of a run; frozen. Raises ConfigError for whatever is not allowed.

    Types are strict: ``"4"`` and ``True`` are no whole numbers. The names are those of
    Hugging Face's trainer and of PEFT where these have one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = Field(
        default=None,
        min_length=1,
        description="Base model: a hub id, a folder in Hugging Face layout, or 'starter'. "
        "Without it: codellama/CodeLlama-7b-hf on a GPU, starter on a CPU.",
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="Branch, tag or commit of a hub model. Without it: its main branch.",
    )
    batch_size: int = Field(default=4, ge=1, description="Rows per forward pass.")
    gradient_accumulation_steps: int = Field(
        default=4,
        ge=1,
        description="Forward passes per optimizer step; times batch_size it is the global batch.",
    )
    max_seq_length: int = Field(default=2048, ge=16, description="Tokens per row.")
    use_4bit: bool = Field(
        default=True,
        description="Keep the base model's weights in 4 bits. Needs a GPU; "
        "without one the run says so and goes on in bf16 or fp32.",
    )
    lora_r: int = Field(default=16, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: float = Field(
        default=32.0, gt=0, description="LoRA's output is scaled by lora_alpha / lora_r."
    )
    lora_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout on the input of the LoRA matrices."
    )
    target_modules: Annotated[tuple[LinearModule, ...], AfterValidator(_in_layer_order)] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        strict=False,  # TOML and JSON have lists, not tuples
        description="Linears that get LoRA matrices.",
    )
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="Peak learning rate.")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_ratio: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the steps in which the learning rate rises to its peak.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, le=1, description="AdamW's weight decay; rows of new tokens have none."
    )
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="Longer gradients are scaled down to this L2 norm."
    )
    num_train_epochs: float = Field(
        default=1.0, gt=0, description="Passes over the corpus; max_steps goes before it."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps. Without it: num_train_epochs decides."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto",
        description="Number format of the forward and backward pass; auto takes bf16 where it is "
        "faster on this machine, fp16 (with loss scaling) on a GPU without bf16, else fp32.",
    )
    seed: int = Field(
        default=42,
        ge=0,
        le=2**32 - 1,
        description="Decides the held-out files, the order of rows, the LoRA matrices' start.",
    )
    heldout_share: float = Field(
        default=0.1,
        ge=0,
        lt=0.5,
        description="Share of the files that is kept from training, for the evaluation.",
    )
    fim_rate: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the pieces of documents trained as fill-in-the-middle, if the model "
        "has the tokens for it; a model that is taught them gets shorter pieces.",
    )
    fim_tokens: Literal["model", "add"] = Field(
        default="model",
        description="Which tokens stand for fill-in-the-middle: model, its own, if it has any; "
        "add, four that it is taught, if it has none.",
    )
    gradient_checkpointing: bool = Field(
        default=True,
        description="Save memory: compute activations again in the backward pass.",
    )
    output_dir: Folder | None = Field(
        default=None,
        strict=False,  # TOML has strings, not paths
        description="Folder of the run. Without it: repotune-runs/<tree>-<date>-<time>.",
    )
    save_steps: int = Field(default=100, ge=1, description="Optimizer steps between checkpoints.")
    evaluate: bool = Field(
        default=True, description="At the end, compare base and tuned on the held-out files."
    )
    eval_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Held-out tokens that the evaluation reads at most. "
        "Without it: all on a GPU, 30,000 on a CPU.",
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between measurements of the loss on a sample of the held-out "
        "files; the step where it is lowest is exported. Without it: as save_steps.",
    )
    early_stopping_patience: int = Field(
        default=3,
        ge=0,
        description="End the training after so many measurements in a row without a new lowest "
        "held-out loss; 0: never.",
    )
    allow_shorter_rows: bool = Field(
        default=False,
        description="If memory runs out and nothing else helps, cut rows in halves instead of "
        "stopping; documents that cross a cut lose their context.",
    )
    rehearsal: bool = Field(
        default=True,
        description="Before a run of more than 10 minutes, go the whole way in small: five steps, "
        "save, resume, export, load, complete.",
    )
    deterministic: bool = Field(
        default=False,
        description="On a GPU, take only operations that give the same bits each time, which is "
        "slower; on a CPU they always do.",
    )
    memorisation_canaries: int = Field(
        default=0,
        ge=0,
        le=300,
        description="Put so many random comment lines into training files, each in 1, 4 or 16 "
        "places, so that the evaluation can say what was memorised.",
    )
    keep_vendored: bool = Field(
        default=False, description="Also learn from vendored and generated code."
    )
    offline: bool = Field(
        default=False, description="Never ask the model hub; use what is on this disk."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[FineTuningConfig]) -> Any:
        try:
            config = handler(data)
        except ValidationError as error:
            raise ConfigError(_sentence(error)) from None
        _check_combinations(config)
        return config

    @classmethod
    def from_toml(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> FineTuningConfig:
        """The configuration in the TOML file at ``path``; ``overrides`` go before the file's keys.

        Raises ConfigError if the file cannot be read or is not TOML, or for what it says.
        """
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(
                f"The configuration file {path} cannot be read: {error.strerror}."
            ) from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"The configuration file {path} is not UTF-8 text (byte {error.start}): "
                "save it as UTF-8."
            ) from None
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"The configuration file {path} is not valid TOML: {error}."
            ) from None
        return cls(**{**values, **(overrides or {})})

    @classmethod
    def for_gpu(cls, name: str) -> FineTuningConfig:
        """The preset of the GPU that ``name`` means ("RTX 3060", "A100"), for CodeLlama-7B.

        A name that fits several GPUs takes the one with the least memory. Raises UsageError, with
        the nearest names, for an unknown one, DoesNotFit where CodeLlama-7B is too large for it.
        """
        gpu = find_gpu(name).gpu
        preset = find_preset(gpu.name)
        if preset is None:
            raise DoesNotFit(
                f"CodeLlama-7B does not fit on {gpu.name} with {gpu.memory_gb} GB: "
                "`repotune plan --all-models` shows which models do."
            )
        return cls(
            batch_size=preset.batch_size,
            gradient_accumulation_steps=preset.gradient_accumulation_steps,
            max_seq_length=preset.max_seq_length,
            use_4bit=preset.use_4bit,
        )

    def to_toml(self) -> str:
        """The configuration as TOML text that :meth:`from_toml` reads; None is left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def merged(self, overrides: Mapping[str, Any]) -> FineTuningConfig:
        """A copy in which ``overrides`` replace the fields of their names, checked as a whole."""
        return FineTuningConfig(**{**self.model_dump(), **overrides})


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFacts:
    """What a user may know about one field, read from its definition."""

    name: str
    kind: Kind
    choices: tuple[str, ...]
    """Of a choice or of a list's items; else empty."""
    default: bool | float | str | list[str] | None
    description: str
    allowed: str
    """A phrase: ``a whole number, at least 1``."""


def field_facts() -> tuple[FieldFacts, ...]:
    """All fields of FineTuningConfig, in their order."""
    schema = FineTuningConfig.model_json_schema()
    return tuple(_facts(name, entry) for name, entry in schema["properties"].items())


def _facts(name: str, entry: Mapping[str, Any]) -> FieldFacts:
    # An optional field is {"anyOf": [{"type": ...}, {"type": "null"}]} in JSON schema.
    value = entry["anyOf"][0] if "anyOf" in entry else entry
    choices = tuple(value.get("enum", value.get("items", {}).get("enum", ())))
    kind = _kind(value)
    return FieldFacts(
        name=name,
        kind=kind,
        choices=choices,
        default=entry["default"],
        description=entry["description"],
        allowed=_allowed(kind, choices, value),
    )


def _kind(value: Mapping[str, Any]) -> Kind:
    if "enum" in value:
        return "choice"
    if value.get("format") == "path":
        return "path"
    kind: Kind = {"string": "text", "array": "list"}.get(value["type"], value["type"])
    return kind


def _allowed(kind: Kind, choices: tuple[str, ...], value: Mapping[str, Any]) -> str:
    nouns: dict[Kind, str] = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "text": "text in quotes, not empty",
        "path": "a path in quotes, not empty",
        "choice": f"one of {', '.join(choices)}",
        "list": f"a list with at least one of {', '.join(choices)}",
    }
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{words} {value[key]}" for key, words in bounds.items() if key in value]
    return ", ".join([nouns[kind], " and ".join(limits)]) if limits else nouns[kind]


def _sentence(error: ValidationError) -> str:
    """What pydantic found, as one sentence: a clause for each key."""
    facts = {field.name: field for field in field_facts()}
    clauses: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_context=False):
        key = str(detail["loc"][0])
        if key in clauses:
            continue
        if key in facts:
            allowed = facts[key].allowed
            clauses[key] = f"{key} = {_shown(detail['input'])} is not allowed: give {allowed}"
        elif isinstance(detail["input"], Mapping):
            clauses[key] = (
                f"{key} is a table, and the configuration has none: write the keys at the top of "
                f"the file, without [{key}]"
            )
        else:
            clauses[key] = f"{key} is not a key of the configuration; {_nearest(key, list(facts))}"
    return "; ".join(clauses.values()) + "."


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key.lower().replace("-", "_"), names, n=1, cutoff=0.52)
    return f"the nearest is {near[0]}" if near else f"the keys are {', '.join(names)}"


def _check_combinations(config: FineTuningConfig) -> None:
    """Fields that are allowed alone and impossible together."""
    if config.evaluate and config.heldout_share == 0:
        raise ConfigError(
            "evaluate = true with heldout_share = 0 is impossible, because no file would be held "
            "out to evaluate on: give heldout_share a value above 0, or set evaluate to false."
        )
    if config.fim_tokens == "add" and config.fim_rate == 0:
        raise ConfigError(
            'fim_tokens = "add" with fim_rate = 0 is impossible, because nothing would teach the '
            'tokens: give fim_rate a value above 0, or set fim_tokens to "model".'
        )
    if config.revision is not None and config.model in (None, "starter"):
        raise ConfigError(
            f"revision = {config.revision!r} needs model to be a hub id such as "
            "codellama/CodeLlama-7b-hf: set model, or leave revision out."
        )
