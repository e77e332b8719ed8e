"""The adapter in PEFT's format: a folder with ``adapter_config.json`` and the fp32 matrices.

The folder is written under a name beside its own, each file synced, and then renamed; one that was
there before is put aside first and removed last, so that at every moment a whole adapter lies
there, or beside it, where the next export or load finds it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from repotune.durable import sync_folder, write_durably, writing
from repotune.errors import RunError
from repotune.model.new_tokens import SUFFIX
from repotune.model.starter import STARTER
from repotune.records import LoraSpec, ModelRef

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before Hugging Face's names: its wrapper, and the LoRA model inside."""
STARTER_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The starter's original; its GGUF file holds the same weights, rounded."""


def export_adapter(
    folder: Path, lora_state: Mapping[str, Tensor], *, lora: LoraSpec, base: ModelRef
) -> None:
    """Write ``lora_state`` (``Decoder.lora_state``) as an adapter for ``base`` into ``folder``.

    Replaces an adapter that is there, once the new one is whole; whatever fails, one of the two
    remains. Raises DiskFull if the disk is full, RunError if the folder cannot be written or holds
    something else.
    """
    tensors = {
        PREFIX + name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in lora_state.items()
    }
    partial, replaced = _beside(folder, "partial"), _beside(folder, "replaced")
    with writing(folder, note="; the weights are in the newest checkpoint"):
        _recover(folder)
        _refuse_what_is_no_adapter(folder)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            write_durably(
                partial / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"})
            )
            config = {**_settings(lora, lora_state), **_origin(lora, base)}
            write_durably(partial / CONFIG, json.dumps(config, indent=2, allow_nan=False).encode())
            sync_folder(partial)
            if folder.exists():
                folder.replace(replaced)
            partial.replace(folder)
        except BaseException:
            _recover(folder)
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def load_adapter(folder: Path, lora_state: Mapping[str, Tensor], *, lora: LoraSpec) -> None:
    """Copy the adapter in ``folder`` into ``lora_state`` in place; then call ``Decoder.refresh``.

    Nothing is copied before all is checked. Raises RunError as ``read_adapter``.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in lora_state.items()}
    found = read_adapter(folder, shapes, lora=lora)
    with torch.no_grad():
        for name, tensor in lora_state.items():
            tensor.copy_(found[name])


def read_adapter(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], *, lora: LoraSpec
) -> dict[str, Tensor]:
    """The matrices of the adapter in ``folder`` by the names of ``shapes``, fp32.

    Raises RunError if the adapter is missing or damaged, or if its settings, names or shapes are
    not those of ``lora`` and ``shapes``.
    """
    advice = "go on with `repotune tune --resume RUN` to write it again"
    try:
        _recover(folder)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        # Bytes, since a mapped file would stay open, and Windows then refuses to replace it.
        found = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    except OSError as error:
        raise RunError(
            f"The adapter {folder} cannot be read ({error.strerror}): {advice}."
        ) from None
    except (ValueError, RecursionError, SafetensorError) as error:
        raise RunError(f"The adapter {folder} is damaged ({error}): {advice}.") from None
    _refuse_other_settings(folder, config, _settings(lora, shapes))
    _refuse_other_tensors(folder, found, {PREFIX + name: size for name, size in shapes.items()})
    return {name: found[PREFIX + name].float() for name in shapes}


def _settings(lora: LoraSpec, names: Collection[str]) -> dict[str, Any]:
    """What decides, beside the tensors of ``names``, what the adapter does; under PEFT's names."""
    tables = [name.rpartition(f".{SUFFIX}")[0] for name in names if name.endswith(SUFFIX)]
    tokens = {table.rpartition(".")[2]: list(lora.trainable_token_indices) for table in tables}
    return {
        "peft_type": "LORA",
        "r": lora.r,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "target_modules": sorted(lora.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "trainable_token_indices": tokens or None,
    }


def _origin(lora: LoraSpec, base: ModelRef) -> dict[str, Any]:
    """Where it comes from, and what it is for."""
    is_starter, is_of_hub = base.name == STARTER, base.revision is not None
    name = STARTER_HUB_ID if is_starter else base.name if is_of_hub else base.path
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": base.revision,
        "lora_dropout": lora.dropout,
        "inference_mode": True,
    }


def _refuse_other_settings(folder: Path, config: object, wanted: Mapping[str, Any]) -> None:
    found = {**wanted, **config} if isinstance(config, dict) else {}
    if isinstance(found.get("target_modules"), list):
        found["target_modules"] = sorted(map(str, found["target_modules"]))
    for key, value in wanted.items():
        if found.get(key) != value:
            raise RunError(
                f"The adapter {folder} says {key} = {str(found.get(key))[:80]}, and this run has "
                f"{value}: put back the adapter of this run."
            )


def _refuse_other_tensors(
    folder: Path, found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    advice = "put back the adapter of this run and its base model"
    if found.keys() != wanted.keys():
        name = min(found.keys() ^ wanted.keys())
        where = "only in the adapter" if name in found else "missing from it"
        raise RunError(f"The adapter {folder} is of another model ({name} is {where}): {advice}.")
    for name, size in wanted.items():
        if tuple(found[name].shape) != size:
            raise RunError(
                f"The adapter {folder} is of another model ({name} is {list(found[name].shape)} "
                f"in it and {list(size)} here): {advice}."
            )


def _refuse_what_is_no_adapter(folder: Path) -> None:
    """What somebody else put there is not ours to replace."""
    is_empty_folder = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty_folder and not (folder / CONFIG).exists():
        raise RunError(
            f"{folder} exists and is not an adapter: move it away, so that the adapter can be "
            "written there."
        )


def _recover(folder: Path) -> None:
    """Put back what an export that was killed between its two renames had put aside."""
    replaced = _beside(folder, "replaced")
    if replaced.exists() and not folder.exists():
        replaced.replace(folder)


def _beside(folder: Path, why: str) -> Path:
    return folder.with_name(f".{folder.name}.{why}")
