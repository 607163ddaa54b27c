"""The first eight bytes: magic, version and byte order."""

import struct

from app.errors import NotGGUF, Truncated, UnsupportedVersion
from app.gguf.cursor import U32, Cursor

MAGIC = b"GGUF"
SUPPORTED_VERSIONS = (2, 3)  # one layout; 3 only added big-endian files
MIN_HEADER_BYTES = 24  # magic, version, tensor count, metadata count

# What is found under the name .gguf, by the bytes that it begins with.
IMPOSTORS = (
    (b"version https://git-lfs", "a git-lfs pointer; fetch the file itself with `git lfs pull`"),
    (b"<!doctype html", "an HTML page, as a failed download leaves it"),
    (b"<html", "an HTML page, as a failed download leaves it"),
    (b"pk\x03\x04", "a zip archive, such as a PyTorch checkpoint"),
    (b"ggla", "a llama.cpp LoRA adapter of the time before GGUF"),
    (b"algg", "a llama.cpp LoRA adapter of the time before GGUF"),
    *(
        (magic[::step], f"a {magic.decode().upper()} file of the time before GGUF; convert the model again")
        for magic in (b"ggml", b"ggmf", b"ggjt")
        for step in (1, -1)  # written as a little-endian integer, the letters stand in reverse
    ),
)


def read_version(cursor: Cursor) -> int:
    """Read magic and version; raises NotGGUF, UnsupportedVersion, or Truncated."""
    magic = bytes(cursor.view[:4])
    if not MAGIC.startswith(magic):
        raise NotGGUF(f"not a GGUF file: it begins with {magic!r}{_guess(cursor)}", offset=0, field="magic")
    if cursor.size < 8:
        raise Truncated(
            f"a GGUF file has at least {MIN_HEADER_BYTES} bytes; {cursor.size} are here",
            needed_bytes=MIN_HEADER_BYTES,
            offset=cursor.size,
            field="magic" if cursor.size < 4 else "version",
        )
    cursor.position = 4
    version = cursor.u32("version")
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(_refusal(version), version=version, offset=4, field="version")
    return version


def _guess(cursor: Cursor) -> str:
    """Name the common mistakes, for the message."""
    start = bytes(cursor.view[:64]).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for prefix, what in IMPOSTORS:
        if start.startswith(prefix):
            return f", which is {what}"
    if bytes(cursor.view[8:10]) in {b"{}", b'{"'}:  # a length of eight bytes, then JSON
        return ", which is a safetensors file; convert it to GGUF"
    return ""


def _refusal(version: int) -> str:
    supported = " and ".join(map(str, SUPPORTED_VERSIONS))
    # llama.cpp's rule: no version is a multiple of 65536, so this is a small number read from the wrong end.
    if version and version & 0xFFFF == 0:
        (swapped,) = struct.unpack(">I", U32.pack(version))
        return f"a big-endian GGUF file of version {swapped}; only little-endian files can be read"
    return f"GGUF version {version}; {supported} can be read"
