"""GGUF headers: those of the library are read as it reads them, those that lie are refused."""

import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest

from repotune.errors import ModelError
from repotune.gguf_file import TensorPlan, block_width, open_gguf, quantise, row_bytes, write_gguf

U32, STRING, ARRAY, U8 = 4, 8, 9, 0
F32, Q4_0 = 0, 2


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name=b"t", shape=(4,), kind=F32, offset=0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def header(*pairs: bytes, tensors=(), version=3, counts=None) -> bytes:
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    start = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count)
    return start + b"".join(pairs) + b"".join(tensors)


def pair(kind: int, value: bytes, key=b"key") -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items=b"") -> bytes:
    return pair(ARRAY, struct.pack("<IQ", kind, count) + items)


HUGE = 2**60
HOSTILE = {
    "empty": b"",
    "another format": b"PK\x03\x04" + bytes(100),
    "cut off in the counts": header()[:17],
    "version 1": header(version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "2^60 tensors": header(counts=(HUGE, 0)),
    "2^60 pairs": header(counts=(0, HUGE)),
    "100,000 tensors in an empty file": header(counts=(100_000, 0)),
    "a key of 2^60 bytes": header(struct.pack("<Q", HUGE)),
    "a key of 2^64 - 1 bytes": header(struct.pack("<Q", 2**64 - 1)),
    "a string of 2^60 bytes": header(pair(STRING, struct.pack("<Q", HUGE))),
    "a string that is not UTF-8": header(pair(STRING, text(b"\xff\xfe"))),
    "a key that is not UTF-8": header(pair(U8, b"\0", key=b"\xc3")),
    "an array of 2^60 bytes": header(array(U8, HUGE)),
    "an array of 2^60 strings": header(array(STRING, HUGE)),
    "an array of arrays": header(array(ARRAY, 1, array(ARRAY, 1))),
    "a million arrays inside each other": header(array(ARRAY, 1, struct.pack("<IQ", 9, 1) * 10**6)),
    "an unknown type of value": header(pair(99, bytes(8))),
    "a value that is cut off": header(pair(U32, b"\1\2")),
    "alignment 0": header(pair(U32, bytes(4), key=b"general.alignment")),
    "alignment as text": header(pair(STRING, text(b"32"), key=b"general.alignment")),
    "a tensor without dimensions": header(tensors=[tensor(shape=())]),
    "a tensor of 2^31 dimensions": header(tensors=[text(b"t") + struct.pack("<I", 2**31)]),
    "a tensor of an unknown type": header(tensors=[tensor(kind=9999)]) + bytes(64),
    "a tensor of no elements": header(tensors=[tensor(shape=(4, 0))]) + bytes(64),
    "a tensor of 2^240 elements": header(tensors=[tensor(shape=(HUGE,) * 4)]) + bytes(64),
    "a part of a block": header(tensors=[tensor(shape=(33,), kind=Q4_0)]) + bytes(64),
    "a tensor beyond the end": header(tensors=[tensor(offset=64)]) + bytes(64),
    "a tensor far beyond the end": header(tensors=[tensor(offset=2**64 - 8)]) + bytes(64),
    "a tensor that is cut off": header(tensors=[tensor(shape=(64,))]) + bytes(64),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused_without_allocating_what_it_claims(case, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[case])
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ModelError, match=r"model\.gguf is damaged or no GGUF file \(.*\): down"):
        open_gguf(path)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert seconds < 1.0


def test_a_header_of_a_gigabyte_is_refused_at_once(tmp_path):
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(header(array(U8, 2**30)))
        file.truncate(2**30 + 2**20)  # sparse: the bytes are there as claimed, and take no disk
    with pytest.raises(ModelError, match="claims 1073741824 entries"):
        open_gguf(path)


@pytest.mark.parametrize("cut", range(0, 600, 7))
def test_a_file_that_is_cut_off_anywhere_is_refused(cut, real, tmp_path):
    path = tmp_path / "model.gguf"
    whole = real.read_bytes()
    assert cut < len(whole)
    path.write_bytes(whole[:cut])
    with pytest.raises(ModelError):
        open_gguf(path)


def test_flipped_bytes_never_surprise(real, tmp_path):
    path = tmp_path / "model.gguf"
    whole = real.read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for at in chance.integers(0, 500, 3):
            damaged[at] = chance.integers(256)
        path.write_bytes(damaged)
        try:
            file = open_gguf(path)
            for name in file.tensors:
                file.read(name)
        except ModelError:
            pass


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is not a file"):
        open_gguf(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="is not a file"):
        open_gguf(tmp_path)


QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "real.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("whole", 7)
    writer.add_float32("number", 0.5)
    writer.add_bool("flag", True)
    writer.add_string("text", "ein Wort: 한국어")
    writer.add_array("words", ["a", "", "ä"])
    writer.add_array("numbers", [1, -2, 3])
    values = np.random.default_rng(1).standard_normal((6, 64)).astype(np.float32)
    for name in QUANTISATIONS:
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("whole numbers", np.arange(8, dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_and_tensors_are_those_that_the_library_reads(real):
    file = open_gguf(real)
    reader = gguf.GGUFReader(real)
    assert {k: v for k, v in file.metadata.items() if not k.startswith("general.")} == {
        "whole": 7, "number": 0.5, "flag": True, "text": "ein Wort: 한국어",
        "words": ["a", "", "ä"], "numbers": [1, -2, 3],
    }  # fmt: skip
    assert file.metadata["general.architecture"] == "llama"
    assert set(file.tensors) == {tensor.name for tensor in reader.tensors}
    for expected in reader.tensors[: len(QUANTISATIONS)]:
        info = file.tensors[expected.name]
        assert (info.offset, info.bytes) == (expected.data_offset, expected.n_bytes)
        got = file.read(expected.name)
        assert (got.dtype, got.shape) == (np.float32, (6, 64))
        np.testing.assert_array_equal(
            got, gguf.quants.dequantize(expected.data, expected.tensor_type)
        )


def test_the_header_is_what_stands_before_the_tensors(real):
    header_bytes = open_gguf(real).header
    assert header_bytes == real.read_bytes()[: len(header_bytes)]
    first = min(info.offset for info in open_gguf(real).tensors.values())
    assert first - 32 < len(header_bytes) <= first  # all but the padding to 32 bytes


def test_a_tensor_that_is_not_there_or_cannot_be_read_is_refused_by_name(real):
    with pytest.raises(ModelError, match="has no tensor blk"):
        open_gguf(real).read("blk.0.attn_q.weight")
    with pytest.raises(ModelError, match="holds whole numbers as I32, which cannot be read"):
        open_gguf(real).read("whole numbers")


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_what_is_written_is_read_by_the_library(kind, tmp_path):
    metadata = {
        "general.name": "한글", "x.count": 7, "x.on": False, "x.eps": 0.5,
        "x.words": ["a", "나"], "x.types": [1, -3], "x.scores": [-1.0, 0.0],
    }  # fmt: skip
    values = {
        "a.weight": np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32),
        "b": np.arange(5, dtype=np.float32),
    }
    kinds = {"a.weight": kind, "b": "F32"}
    plans = {
        name: TensorPlan(shape=value.shape, quantisation=kinds[name])
        for name, value in values.items()
    }
    data = (quantise(value, kinds[name]) for name, value in values.items())
    path = tmp_path / "x.gguf"
    write_gguf(path, architecture="llama", metadata=metadata, tensors=plans, data=data)
    reader = gguf.GGUFReader(path)
    for key, value in metadata.items():
        assert reader.fields[key].contents() == value
    assert reader.fields["general.architecture"].contents() == "llama"
    for tensor in reader.tensors:
        assert tensor.tensor_type.name == kinds[tensor.name]
        assert plans[tensor.name].bytes == tensor.n_bytes
        read = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        # Of 8 bits one is the sign: half a step is 1 / 254 of the largest in a block.
        np.testing.assert_allclose(read, values[tensor.name], atol=4 / 254)
    del reader
    assert open_gguf(path).metadata == {"general.architecture": "llama", **metadata}


def test_blocks_are_those_of_the_format():
    assert (block_width("Q4_K"), row_bytes(512, "Q4_K")) == (256, 288)
    assert (block_width("Q8_0"), row_bytes(64, "Q8_0")) == (32, 68)
    with pytest.raises(AssertionError):
        row_bytes(100, "Q4_K")


def test_a_failure_while_writing_leaves_the_file_closed(tmp_path):
    def data():
        raise OSError(28, "No space left on device")
        yield

    plans = {"a": TensorPlan(shape=(4,), quantisation="F32")}
    with pytest.raises(OSError, match="No space left"):
        write_gguf(
            tmp_path / "x.gguf", architecture="llama", metadata={}, tensors=plans, data=data()
        )
    (tmp_path / "x.gguf").unlink()
