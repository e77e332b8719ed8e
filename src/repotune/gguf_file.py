"""Reading and writing GGUF files (the format of llama.cpp); the only file that knows it.

The header is parsed here and checked against the file's size before anything is allocated, since
a file can lie about its counts, lengths and offsets. Tensors are mapped, and dequantised one at a
time by the ``gguf`` library's own tables. The library writes, too: first what the file says about
itself, then one tensor after another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.gguf_writer import GGUFWriter
from gguf.quants import dequantize, quantize

from repotune.errors import ModelError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
LENGTH: Final = struct.Struct("<Q")
MAX_TENSORS: Final = 100_000
MAX_DIMENSIONS: Final = 4
MAX_HEADER_BYTES: Final = 2**26
"""Real headers are mostly vocabulary: at most 20 MB for 256,000 tokens."""
DEFAULT_ALIGNMENT: Final = 32
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS: Final[dict[int, str]] = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", BOOL: "|b1",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
"""Type number -> numpy's name of it (the format's specification, "gguf_metadata_value_type")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies and how it is stored."""

    shape: tuple[int, ...]
    """In numpy's order: the last dimension is contiguous."""
    quantisation: str
    """The library's name of the type: ``F16``, ``Q4_1``, …"""
    offset: int
    """From the beginning of the file, bytes."""
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """How a tensor is to be stored."""

    shape: tuple[int, ...]
    """In numpy's order, as ``TensorInfo.shape``."""
    quantisation: str

    @property
    def bytes(self) -> int:
        """What it takes in the file, the padding behind it not counted."""
        return prod(self.shape[:-1]) * row_bytes(self.shape[-1], self.quantisation)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """A GGUF file whose header is sound."""

    path: Path
    metadata: Mapping[str, Any]
    """Keys as in the file; values are Python scalars, strings, or lists of them."""
    tensors: Mapping[str, TensorInfo]
    header: bytes = field(repr=False)
    """The bytes before the first tensor's place: all that the file says about itself."""

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """One tensor, dequantised to fp32, in memory of its own.

        Raises ModelError if there is none of that name, or of a type that cannot be read.
        """
        if name not in self.tensors:
            raise ModelError(f"{self.path} has no tensor {name}: download the model again.")
        info = self.tensors[name]
        raw = np.memmap(self.path, dtype=np.uint8, mode="r", offset=info.offset, shape=info.bytes)
        kind = GGMLQuantizationType[info.quantisation]
        block, block_bytes = GGML_QUANT_SIZES[kind]
        # A plain array: each of the many slices of a memmap costs several times as much.
        rows = raw.view(np.ndarray).reshape(-1, info.shape[-1] // block * block_bytes)
        try:
            values = dequantize(rows, kind)
        except NotImplementedError:
            raise ModelError(
                f"{self.path} holds {name} as {info.quantisation}, which cannot be read: use a "
                "file in a common quantisation, such as Q8_0."
            ) from None
        return np.require(values.reshape(info.shape), np.float32, "W")  # no view of the file


def open_gguf(path: Path) -> GgufFile:
    """Read and check the header of ``path``.

    Raises ModelError when the file cannot be read, is no GGUF file, or says things about itself
    that cannot be true.
    """
    if not path.is_file():
        raise ModelError(f"{path} is not a file: give the path of a .gguf file.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = _Header(path, np.memmap(file, dtype=np.uint8, mode="r") if size else None)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    return header.parse()


def block_width(quantisation: str) -> int:
    """How many numbers a block of this type holds: the widths it can store are its multiples."""
    return int(GGML_QUANT_SIZES[GGMLQuantizationType[quantisation]][0])


def row_bytes(width: int, quantisation: str) -> int:
    """What ``width`` numbers take, of which whole blocks can be made."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[quantisation]]
    assert width % block == 0
    return int(width // block * size)


def type_number(quantisation: str) -> int:
    """llama.cpp's number of a type (``enum ggml_type``)."""
    return int(GGMLQuantizationType[quantisation])


def quantise(values: npt.NDArray[np.float32], quantisation: str) -> npt.NDArray[np.uint8]:
    """``values`` [..., width] as F32, F16 or a type without superblocks: [..., row's bytes]."""
    stored = quantize(values, GGMLQuantizationType[quantisation])
    return np.ascontiguousarray(stored).view(np.uint8)


def write_gguf(
    path: Path, *, architecture: str, metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorPlan], data: Iterable[npt.NDArray[np.uint8]],
) -> None:  # fmt: skip
    """Write ``path``; ``data`` yields each tensor's bytes in the order of ``tensors``.

    No more than one tensor is in memory at a time. Values of ``metadata`` are as ``GgufFile``'s;
    whole numbers become uint32, in a list int32. Raises OSError if the file cannot be written.
    """
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    for name, plan in tensors.items():
        kind = GGMLQuantizationType[plan.quantisation]
        writer.add_tensor_info(name, plan.shape, np.dtype(np.float32), plan.bytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in data:
            writer.write_tensor_data(one)
    finally:
        writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case [str(), *_]:
            writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType.STRING)
        case [float(), *_]:
            writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
        case [int(), *_]:
            writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType.INT32)
        case _:
            raise TypeError(f"{key} is {type(value)}")


class _Header:
    """A cursor over the mapped file that refuses to run past its end."""

    def __init__(self, path: Path, data: npt.NDArray[np.uint8] | None) -> None:
        self._path = path
        self._size = 0 if data is None else len(data)
        self._data = memoryview(b"") if data is None else data.data[:MAX_HEADER_BYTES]
        self._at = 0

    def parse(self) -> GgufFile:
        if bytes(self._take(4)) != MAGIC:
            raise self._damaged("it does not begin with GGUF")
        version = self._number("<u4")
        if version not in VERSIONS:
            raise self._damaged(f"its version is {version}, and 2 and 3 can be read")
        tensor_count, pair_count = self._number("<u8"), self._number("<u8")
        if tensor_count > MAX_TENSORS:
            raise self._damaged(f"it claims {tensor_count} tensors")
        metadata = dict(self._pair() for _ in range(self._plausible(pair_count, 12)))
        raw = [self._tensor() for _ in range(self._plausible(tensor_count, 24))]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._damaged(f"its alignment is {alignment}")
        start = -(-self._at // alignment) * alignment
        tensors = {name: self._placed(name, info, start) for name, info in raw}
        header = bytes(self._data[: self._at])
        return GgufFile(path=self._path, metadata=metadata, tensors=tensors, header=header)

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path} is damaged or no GGUF file ({what}): download it again.")

    def _take(self, count: int) -> memoryview:
        if count > len(self._data) - self._at:
            raise self._damaged(f"its header goes on to byte {self._at + count} of {self._size}")
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def _plausible(self, count: int, least_bytes: int) -> int:
        """A count of things that take at least so many bytes each, if the file can hold them."""
        if count * least_bytes > len(self._data) - self._at:
            raise self._damaged(f"it claims {count} entries, more than it has room for")
        return count

    def _number(self, kind: str) -> int:
        return int(np.frombuffer(self._take(np.dtype(kind).itemsize), dtype=kind)[0])

    def _string(self) -> str:
        (length,) = LENGTH.unpack(self._take(8))
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError:
            raise self._damaged(f"the text before byte {self._at} is not UTF-8") from None

    def _pair(self) -> tuple[str, Any]:
        key = self._string()
        return key, self._value(self._number("<u4"))

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            item, count = self._number("<u4"), self._number("<u8")
            if item == STRING:
                return [self._string() for _ in range(self._plausible(count, 8))]
            return self._scalars(item, count).tolist()
        return self._scalars(kind, 1)[0].item()

    def _scalars(self, kind: int, count: int) -> npt.NDArray[Any]:
        if kind not in SCALARS:
            raise self._damaged(f"there is a value of type {kind} before byte {self._at}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(
            self._take(self._plausible(count, dtype.itemsize) * dtype.itemsize), dtype
        )

    def _tensor(self) -> tuple[str, TensorInfo]:
        name = self._string()
        dimensions = self._number("<u4")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number("<u8") for _ in range(dimensions))[::-1]
        number, offset = self._number("<u4"), self._number("<u8")
        if number not in set(GGMLQuantizationType):
            raise self._damaged(f"tensor {name!r} has the unknown type {number}")
        kind = GGMLQuantizationType(number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block or 0 in shape:
            raise self._damaged(f"tensor {name!r} has the impossible shape {list(shape)}")
        size = prod(shape) // block * block_bytes
        return name, TensorInfo(shape=shape, quantisation=kind.name, offset=offset, bytes=size)

    def _placed(self, name: str, info: TensorInfo, start: int) -> TensorInfo:
        offset = start + info.offset
        if offset + info.bytes > self._size:
            raise self._damaged(
                f"tensor {name!r} would end at byte {offset + info.bytes} of {self._size}"
            )
        return TensorInfo(
            shape=info.shape, quantisation=info.quantisation, offset=offset, bytes=info.bytes
        )
