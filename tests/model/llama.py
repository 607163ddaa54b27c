"""A small llama model, written to the specification, that can be damaged before it is read again."""

from dataclasses import dataclass, replace
from typing import Any

from app.gguf import parse_header
from app.model import Model, Problem, describe
from tests import gguf_builder as gguf

METADATA = gguf.llama_metadata(n_layer=2, n_embd=64, n_ff=128, n_head=4, n_head_kv=2, n_vocab=96)
SHAPES = gguf.llama_shapes(n_layer=2, n_embd=64, n_ff=128, n_kv=32, n_vocab=96, tied=False, uneven=False)

Shape = tuple[str, int, tuple[int, ...]]


@dataclass(frozen=True)
class Llama:
    """A small llama model that can be damaged before it is written and read again."""

    metadata: tuple[gguf.KeyValue, ...] = tuple(METADATA)
    shapes: tuple[Shape, ...] = tuple(SHAPES)

    def with_key(self, key: str, kind: int, value: Any) -> "Llama":
        """Set a key."""
        return replace(self.without_key(key), metadata=(*self.without_key(key).metadata, (key, kind, value)))

    def without_key(self, key: str) -> "Llama":
        """Take a key out."""
        return replace(self, metadata=tuple(pair for pair in self.metadata if pair[0] != key))

    def with_tensor(self, name: str, *dims: int) -> "Llama":
        """Put an F16 tensor of these dimensions under a name."""
        return replace(self, shapes=(*self.without_tensor(name).shapes, (name, gguf.F16, dims)))

    def without_tensor(self, *prefixes: str) -> "Llama":
        """Take the tensors out whose names begin so."""
        return replace(self, shapes=tuple(shape for shape in self.shapes if not shape[0].startswith(prefixes)))

    def described(self) -> Model:
        """Write the file, read it, describe it."""
        tensors = [(name, kind, dims, bytes(gguf.tensor_size(kind, dims))) for name, kind, dims in self.shapes]
        return describe([parse_header(gguf.build(self.metadata, tensors))])

    def problem(self) -> Problem:
        """Return the one problem there is."""
        (problem,) = self.described().problems
        return problem
