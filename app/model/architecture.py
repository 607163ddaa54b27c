"""The architectures there are, by the tables of the gguf package: a newer one brings newer names."""

from typing import Final

import gguf

_STACKS: Final = ("blk.", "enc.blk.", "dec.blk.")

known_architectures: Final[frozenset[str]] = frozenset(gguf.MODEL_ARCH_NAMES.values())
"""Every value of `general.architecture` that the gguf package knows; `clip` (projectors) is one of them."""

_with_blocks: Final[frozenset[str]] = frozenset(
    gguf.MODEL_ARCH_NAMES[architecture]
    for architecture, tensors in gguf.MODEL_TENSORS.items()
    if any(gguf.TENSOR_NAMES[tensor].startswith(_STACKS) for tensor in tensors)
)


def is_known(name: str) -> bool:
    """Whether the tables have this architecture."""
    return name in known_architectures


def has_blocks(name: str) -> bool:
    """Whether a model of this architecture is a stack of `blk.N`; False for an unknown one."""
    return name in _with_blocks
