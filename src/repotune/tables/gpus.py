"""The table of GPUs, and which row a name means.

A name is taken as a set of words, and a memory size if it says one. A row fits when each of its
own words is among them and no other word is left over: "RTX 4060" is not the Ti, "RTX 4090 D" is
not the 4090. What is unknown is an error, never the nearest row.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from repotune.errors import UsageError
from repotune.records import Gpu, GpuMatch
from repotune.tables.toml_file import read_table

NOISE: Final = frozenset(("nvidia", "geforce", "tesla", "gpu", "graphics", "card", "corporation"))
"""Words that tell no two GPUs apart."""
BRANDS: Final = frozenset(("rtx", "gtx"))
"""May be left out ("4090"), but not exchanged."""
SAME: Final = {"mobile": "laptop", "notebook": "laptop", "노트북": "laptop"}
MEMORY: Final = re.compile(r"\d+(?:\s*/\s*\d+)*\s*gi?b(?![a-z])")
GLUED: Final = re.compile(r"(?:rtx|gtx)(?=a?\d)|(?<=\d)(?=ti|super)|ti(?=super)")
LEAST_VISIBLE: Final = 0.88
"""CUDA shows at least this share of the memory sold; the least found is 0.91, a T4's with ECC."""
MOST_VISIBLE: Final = 1.01
NEAREST: Final = 3


@dataclass(frozen=True, slots=True)
class _Row:
    gpu: Gpu
    required: frozenset[str]
    allowed: frozenset[str]


def gpus() -> tuple[Gpu, ...]:
    """All known GPUs, in the order of the table: by kind and age."""
    return tuple(row.gpu for row in _rows())


def find_gpu(name: str, memory_bytes: int | None = None) -> GpuMatch:
    """The GPU that ``name`` means, as a user writes it or as PyTorch reports it.

    ``memory_bytes`` is what was found on a machine, and picks among rows of one name. Where
    several rows fit, the one with the least memory is taken, then the slowest, and the note says
    so. Raises UsageError, with the nearest names, when none fits.
    """
    words, memories = _words(name)
    named = [row for row in _rows() if row.required <= words <= row.allowed]
    if not named:
        raise UsageError(_unknown(name))
    fitting = [
        row.gpu
        for row in named
        if (not memories or row.gpu.memory_gb in memories)
        and (memory_bytes is None or _shows(row.gpu, memory_bytes))
    ]
    if not fitting:
        raise UsageError(_other_memory(name, [row.gpu for row in named], memory_bytes))
    if not memories and memory_bytes is None:
        fitting = [gpu for gpu in fitting if not gpu.only_by_full_name] or fitting
    fitting.sort(key=lambda gpu: (gpu.memory_gb, gpu.bandwidth_gb_s, gpu.power_w))
    taken, *others = fitting
    return GpuMatch(gpu=taken, note=_note(name, taken, others) if others else None)


@cache
def _rows() -> tuple[_Row, ...]:
    table = read_table("gpus.toml")
    return tuple(_row(values, table["sources"]) for values in table["gpu"])


def _row(values: Mapping[str, Any], sources: Mapping[str, Mapping[str, str]]) -> _Row:
    name = values["name"]
    own, _ = _words(name)
    optional, _ = _words(" ".join(values.get("optional", ())))
    source = sources[values["source"]]
    mib = values.get("memory_mib")
    gpu = Gpu(
        name=name,
        kind=values["kind"],
        architecture=values["architecture"],
        compute_capability=(values["compute_capability"][0], values["compute_capability"][1]),
        memory_gb=values["memory_gb"],
        memory_bytes=None if mib is None else mib * 2**20,
        bandwidth_gb_s=values["bandwidth_gb_s"],
        bus_bits=values.get("bus_bits"),
        pin_gbps=values.get("pin_gbps"),
        sm_count=values["sm_count"],
        boost_mhz=values.get("boost_mhz"),
        fp16_fp16_tflops=values.get("fp16_fp16_tflops"),
        fp16_tflops=values.get("fp16_tflops"),
        bf16_tflops=values.get("bf16_tflops"),
        tf32_tflops=values.get("tf32_tflops"),
        fp32_tflops=values["fp32_tflops"],
        int8_tops=values.get("int8_tops"),
        fp8_tflops=values.get("fp8_tflops"),
        bf16=values["bf16"],
        pcie_generation=values["pcie_generation"],
        pcie_lanes=values["pcie_lanes"],
        power_w=values["power_w"],
        only_by_full_name=values.get("only_by_full_name", False),
        source=source["title"],
        date=source["date"],
    )
    return _Row(gpu=gpu, required=own - optional - BRANDS, allowed=own | optional)


def _words(name: str) -> tuple[frozenset[str], frozenset[int]]:
    """The words of a name that tell GPUs apart, and the memory sizes in it, in GB."""
    words, memories = _split(name)
    return frozenset(words), frozenset(memories)


def _split(name: str) -> tuple[list[str], list[int]]:
    text = name.lower()
    memories = [int(n) for found in MEMORY.findall(text) for n in re.findall(r"\d+", found)]
    text = GLUED.sub(lambda match: f"{match[0]} ", MEMORY.sub(" ", text))
    words = (SAME.get(word, word) for word in re.findall(r"[^\W_]+", text))
    return [word for word in words if word not in NOISE], memories


def _shows(gpu: Gpu, memory_bytes: int) -> bool:
    return LEAST_VISIBLE <= memory_bytes / (gpu.memory_gb * 2**30) <= MOST_VISIBLE


def _unknown(name: str) -> str:
    names = {gpu.name.lower(): gpu.name for gpu in gpus()}
    words, memories = _split(name)
    asked = " ".join([*words, *(f"{gb}gb" for gb in memories)])
    near = [names[one] for one in difflib.get_close_matches(asked, names, NEAREST, cutoff=0.5)]
    hint = (
        f"perhaps {_list(near, 'or')} is meant"
        if near
        else "give the name of an NVIDIA GPU, such as RTX 3060, RTX 4090, T4 or A100"
    )
    return f"The GPU {name!r} is not known: {hint}."


def _other_memory(name: str, named: Sequence[Gpu], memory_bytes: int | None) -> str:
    sizes = _list([f"{gb} GB" for gb in sorted({gpu.memory_gb for gpu in named})], "or")
    found = "" if memory_bytes is None else f" and {memory_bytes / 2**30:.1f} GiB were found"
    return f"No GPU called {name!r} is known with that memory: it has {sizes}{found}."


def _note(name: str, taken: Gpu, others: Sequence[Gpu]) -> str:
    smaller = all(taken.memory_gb < other.memory_gb for other in others)
    reason = "the least memory" if smaller else "the slowest of those with the least memory"
    fit = _list([gpu.name for gpu in (taken, *others)], "and")
    return f"{name!r} fits {fit}; {taken.name} is taken: {reason}."


def _list(items: Sequence[str], word: str) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"
