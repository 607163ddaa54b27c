"""Files that must be refused, and why, and files that must not: one per cause.

The names in capitals are those of llama.cpp's tests/test-gguf.cpp, all 34 of them.
"""

import struct
from typing import NamedTuple

from app.errors import GGUFError, Malformed, NotGGUF, Truncated, UnsupportedVersion
from tests import gguf_builder as b

MAX_U64 = 2**64 - 1
KV = ("general.name", b.STRING, "x")  # 8 + 12 + 4 + 8 + 1 bytes, from byte 24 on


class Case(NamedTuple):
    """A bad file, the error that it must give, and the words that must be in it."""

    data: bytes
    error: type[GGUFError]
    field: str
    offset: int
    message: str


def one(kind: int, dims: tuple[int, ...], data: bytes = b"", offset: int | None = None) -> bytes:
    """Build a file whose one tensor is at fault; its record starts at byte 24, its dimensions at 37."""
    return b.build(tensors=[("t", kind, dims, data, offset)])


THREE = [("a", b.I8, (5,), b"aaaaa"), ("b", b.I8, (40,), b"b" * 40), ("c", b.I8, (32,), b"c" * 32)]
PACKED_AT_1 = b.build(tensors=THREE, alignment=1, declare_alignment=False)
HUGE_I8 = 0x7FFF_FFFF_FFFF_FFC0
EDGE_I64 = round(1.01 * (2**64 / 8) ** 0.25)

LLAMA_CPP_REFUSES = {
    "HEADER_BAD_MAGIC": Case(b.build(magic=b"FUGG"), NotGGUF, "magic", 0, "b'FUGG'"),
    "HEADER_BAD_VERSION_0": Case(b.build(version=0), UnsupportedVersion, "version", 4, "version 0; 2 and 3"),
    "HEADER_BAD_VERSION_1": Case(b.build(version=1), UnsupportedVersion, "version", 4, "version 1; 2 and 3"),
    "HEADER_BAD_VERSION_FUTURE": Case(b.build(version=4), UnsupportedVersion, "version", 4, "version 4; 2"),
    "HEADER_BAD_N_KV": Case(b.build(metadata_kv_count=MAX_U64), Malformed, "metadata_kv_count", 16, str(MAX_U64)),
    "HEADER_BAD_N_TENSORS": Case(b.build(tensor_count=MAX_U64), Malformed, "tensor_count", 8, str(MAX_U64)),
    "KV_BAD_KEY_SIZE": Case(
        b.build([(b.Raw(b"\xff" * 8 + b"key"), b.UINT8, 1)]), Malformed, "metadata[0].key.length", 24, str(MAX_U64)
    ),
    "KV_EMPTY_KEY": Case(b.build([("", b.UINT32, 1)]), Malformed, "metadata[0].key", 24, "empty"),
    "KV_BAD_TYPE": Case(b.build([("k", 13, b.Raw(bytes(8)))]), Malformed, "k.type", 33, "type 13; 0 to 12"),
    "KV_DUPLICATE_KEY": Case(b.build([KV, KV]), Malformed, "metadata[1].key", 57, "'general.name'"),
    "KV_BAD_ALIGN": Case(
        b.build([("general.alignment", b.UINT32, 13)]), Malformed, "general.alignment", 53, "13 bytes; it must be"
    ),
    "KV_WRONG_TYPE_ALIGN": Case(
        b.build([("general.alignment", b.INT32, 32)]), Malformed, "general.alignment.type", 49, "INT32"
    ),
    "TENSORS_BAD_NAME_SIZE": Case(
        b.build(tensors=[("n" * 64, b.F32, (1,), bytes(4))]), Malformed, "tensors[0].name.length", 24, "64 bytes; 63"
    ),
    "TENSORS_BAD_N_DIMS": Case(one(b.F32, (1,) * 5), Malformed, "tensors[0].n_dims", 33, "5 dimensions; 4"),
    "TENSORS_BAD_SHAPE": Case(one(b.F32, (-1,)), Malformed, "tensors[0].dimensions[0]", 37, str(MAX_U64)),
    "TENSORS_NE_TOO_BIG": Case(
        one(b.I8, (4 * (2**31 - 1),) * 2), Malformed, "tensors[0].dimensions[1]", 45, f"{2**63 - 1} are allowed"
    ),
    "TENSORS_NBYTES_TOO_BIG": Case(
        one(b.I64, (EDGE_I64,) * 4), Malformed, "tensors[0].dimensions", 37, f"{8 * EDGE_I64**4} bytes"
    ),
    "TENSORS_NBYTES_PAD_WRAP": Case(
        one(b.F32, (4, 2**30 - 1, 2**30 + 1)), Malformed, "tensors[0].dimensions", 37, f"{2**64 - 16} bytes"
    ),
    "TENSORS_BAD_TYPE": Case(one(43, (1,)), Malformed, "tensors[0].type", 45, "unknown type 43"),
    "TENSORS_BAD_OFFSET": Case(one(b.F32, (1,), bytes(4), MAX_U64), Malformed, "tensors[0].offset", 49, str(MAX_U64)),
    "TENSORS_DUPLICATE_NAME": Case(
        b.build(tensors=[("t", b.I8, (1,), b"1"), ("t", b.I8, (1,), b"2")]), Malformed, "tensors[1].name", 57, "'t'"
    ),
    "TENSORS_BAD_ALIGN": Case(
        b.build([("general.alignment", b.UINT32, 13)], THREE), Malformed, "general.alignment", 53, "power of two"
    ),
    "TENSORS_INCONSISTENT_ALIGN": Case(PACKED_AT_1, Malformed, "tensors[1].offset", 82, "offset 5; 32 is"),
    "DATA_NOT_ENOUGH_DATA": Case(b.build(tensors=THREE)[:-1], Truncated, "tensors[2]", 224, "'c'"),
    "DATA_BAD_ALIGN": Case(
        b.build([("general.alignment", b.UINT32, 13)], THREE), Malformed, "general.alignment", 53, "13"
    ),
    "DATA_INCONSISTENT_ALIGN": Case(PACKED_AT_1, Malformed, "tensors[1].offset", 82, "padded to 32"),
    "DATA_MEM_SIZE_OVERFLOW": Case(
        b.build(tensors=[("a", b.I8, (HUGE_I8,), b"", 0), ("b", b.I8, (HUGE_I8,), b"", HUGE_I8)]),
        Malformed,
        "tensors[1].dimensions",
        70,
        f"{HUGE_I8} bytes after {HUGE_I8}",
    ),
}

REFUSED_HERE = {
    "alignment-0": Case(b.build([("general.alignment", b.UINT32, 0)]), Malformed, "general.alignment", 53, "0 bytes"),
    "alignment-string": Case(
        b.build([("general.alignment", b.STRING, "32")]), Malformed, "general.alignment.type", 49, "STRING"
    ),
    "big-endian": Case(
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedVersion, "version", 4, "big-endian GGUF file of version 3"
    ),
    "key-not-utf8": Case(b.build([(b"k\xff", b.UINT8, 1)]), Malformed, "metadata[0].key", 24, "0xff at 1"),
    "name-not-utf8": Case(
        b.build(tensors=[(b"\xc3", b.I8, (1,), b"1")]), Malformed, "tensors[0].name", 24, "0xc3 at 0"
    ),
    "array-of-arrays": Case(
        b.build([("k", b.ARRAY, (b.ARRAY, []))]), Malformed, "k.element_type", 37, "array of arrays"
    ),
    "array-of-unknown": Case(b.build([("k", b.ARRAY, (13, []))]), Malformed, "k.element_type", 37, "type 13"),
    "array-too-long": Case(
        b.build([("k", b.ARRAY, b.Raw(struct.pack("<IQ", 0, 2**30 + 1)))]), Malformed, "k.count", 41, str(2**30)
    ),
    "array-of-2^61-uint64": Case(
        b.build([("k", b.ARRAY, b.Raw(struct.pack("<IQ", 10, 2**61)))]), Malformed, "k.count", 41, str(2**61)
    ),
    "string-too-long": Case(
        b.build([("k", b.STRING, b.Raw(struct.pack("<Q", 2**30 + 1)))]), Malformed, "k.length", 37, str(2**30 + 1)
    ),
    "token-too-long": Case(
        b.build([("k", b.ARRAY, (b.STRING, ["a", b.Raw(struct.pack("<Q", 2**30 + 1))]))]),
        Malformed,
        "k[1].length",
        58,
        str(2**30 + 1),
    ),
    "dimension-2^63": Case(one(b.I8, (2**63,)), Malformed, "tensors[0].dimensions[0]", 37, str(2**63)),
    "dimension-2^63-behind-0": Case(one(b.I8, (0, 2**63)), Malformed, "tensors[0].dimensions[1]", 45, str(2**63)),
    "dimensions-overflow-before-0": Case(
        one(b.I8, (2**40, 2**40, 0)), Malformed, "tensors[0].dimensions[1]", 45, f"{2**80} elements"
    ),
    "half-a-block": Case(one(b.Q4_0, (33,), bytes(18)), Malformed, "tensors[0].dimensions[0]", 37, "block of 32"),
    "half-a-block-scalar": Case(one(b.Q8_0, (), bytes(34)), Malformed, "tensors[0].dimensions[0]", 37, "Q8_0's"),
    "Q2_0-is-too-new": Case(one(42, (64,)), Malformed, "tensors[0].type", 45, "unknown type 42"),
    "type-255": Case(one(255, (1,)), Malformed, "tensors[0].type", 45, "unknown type 255"),
    "tensor-overlaps": Case(
        b.build(tensors=[("a", b.I8, (5,), b"aaaaa"), ("b", b.I8, (5,), b"bbbbb", 0)]),
        Malformed,
        "tensors[1].offset",
        82,
        "offset 0; 32",
    ),
    "tensor-gap": Case(one(b.I8, (5,), b"aaaaa", 32), Malformed, "tensors[0].offset", 49, "offset 32; 0"),
    "key-cannot-forge-a-line": Case(
        b.build([("a\nb", b.ARRAY, (13, []))]), Malformed, "metadata[0].element_type", 39, "type 13"
    ),
    **{
        f"removed-type-{number}": Case(one(number, (32,)), Malformed, "tensors[0].type", 45, f"{number}, {name}, which")
        for number, name in {
            4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
            36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
        }.items()
    },
}  # fmt: skip

LLAMA_CPP_ACCEPTS = {
    "HEADER_EMPTY": b.build(),
    "KV_SUCCESS": b.build([KV, ("a", b.ARRAY, (b.INT32, [1, 2])), ("b", b.BOOL, 1), ("c", b.ARRAY, (b.STRING, ["x"]))]),
    "TENSORS_ZERO_DIM": b.build(tensors=[("t", b.F32, (7, 0), b"")]),
    "TENSORS_SUCCESS": b.build([KV], [("t", b.Q4_0, (32, 2, 3, 4), bytes(24 * 18))]),
    "TENSORS_CUSTOM_ALIGN": b.build([KV], THREE, alignment=1),
    "DATA_SUCCESS": b.build([KV], THREE),
    "DATA_CUSTOM_ALIGN": b.build([KV], THREE, alignment=1),
}

ACCEPTED_HERE = {
    "version-2": b.build([KV], THREE, version=2),
    "name-of-63-bytes": b.build(tensors=[("n" * 63, b.F32, (1,), bytes(4))]),
    "name-of-63-bytes-in-21-characters": b.build(tensors=[("層" * 21, b.F32, (1,), bytes(4))]),
    "name-empty": b.build(tensors=[("", b.F32, (1,), bytes(4))]),
    "dimensions-none": b.build(tensors=[("t", b.F32, (), bytes(4))]),
    "dimensions-4": b.build(tensors=[("t", b.F16, (2, 3, 4, 5), bytes(240))]),
    "dimensions-all-0": b.build(tensors=[("t", b.Q8_0, (0, 0, 0, 0)), ("u", b.I8, (1,), b"1")]),
    "dimensions-overflow-behind-0": b.build(tensors=[("t", b.I8, (0, 2**40, 2**40)), ("u", b.I8, (2**40, 0, 2**40))]),
    "alignment-1-without-tensors": b.build([KV], alignment=1),
    "alignment-4096": b.build([KV], THREE, alignment=4096),
    "padding-of-the-last-tensor-missing": b.build(tensors=THREE[:2], pad_last=False),
    "Q1_0": b.build(tensors=[("t", 41, (128,), bytes(18))]),
}

IMPOSTORS = {
    "git-lfs": (b"version https://git-lfs.example/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    "html": (b"\n <!DOCTYPE html><title>404</title>", "HTML page"),
    "html-bare": (b"<HTML><body>", "HTML page"),
    "zip": (b"PK\x03\x04\x14\0\0\0", "zip archive"),
    "safetensors": (struct.pack("<Q", 2000) + b'{"__metadata__":{}', "safetensors"),
    "ggml": (struct.pack("<I", 0x67676D6C) + bytes(40), "GGML file of the time before GGUF"),
    "ggmf": (struct.pack("<I", 0x67676D66) + bytes(40), "GGMF file"),
    "ggjt": (struct.pack("<I", 0x67676A74) + bytes(40), "GGJT file"),
    "ggla": (struct.pack("<I", 0x67676C61) + bytes(40), "LoRA adapter"),
    "GGLA": (b"GGLA" + bytes(40), "LoRA adapter"),
    "unknown": (b"\x7fELF", "begins with b'\\x7fELF'"),
    "one-byte": (b"x", "begins with b'x'"),
}
