"""Files of full size from the headers among the shared fixtures: sparse, the data is a hole that reads as zeros."""

import gzip
import json
import os
from pathlib import Path

HEADERS = sorted((Path(__file__).parents[1] / "../shared/fixtures/headers").resolve().glob("*.gguf.head.gz"))
UNKNOWN = frozenset({
    "deepseek4", "glm5-next", "granite_swa", "hy_v4", "laguna", "minimax-01", "minimax-m3", "muse-glimmer", "nanbeige",
    "spark2_5", "talkie",
})  # fmt: skip
"""The architectures among them that gguf 0.19 does not know."""


def materialised(head: Path, directory: Path) -> Path:
    """Write the file that a header was taken from, with zeros for weights."""
    name = head.name.removesuffix(".head.gz")
    path = directory / name
    path.write_bytes(gzip.decompress(head.read_bytes()))
    os.truncate(path, json.loads((head.parent / "sizes.json").read_text())[name]["size"])
    return path
