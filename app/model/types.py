"""Types: tensors of a type that ggml cannot compute with where they stand.

A loader takes them; the first computation aborts the process. Norms and biases are added and multiplied element by
element, which ggml does with plain floating-point numbers only, and no quantiser touches them. Weights may be of any
type but the integers: those are for tables of ids.
"""

from collections.abc import Iterator
from typing import Final

from app.model.families import take_apart
from app.model.model import Model
from app.model.problems import Problem, ProblemKind
from app.model.tensor_table import STEMS

_FLOATS: Final = frozenset({"F16", "BF16", "F32", "F64"})
_INTEGERS: Final = frozenset({"I8", "I16", "I32", "I64"})


def type_problems(model: Model) -> Iterator[Problem]:
    """List the tensors of a wrong type; judges only by names that the tensor table has."""
    for tensor in model.tensors:
        name = take_apart(tensor.name)
        if name.stem not in STEMS:
            continue
        if name.part == "bias" or name.stem.endswith("norm"):
            wrong, expected = tensor.type not in _FLOATS, "F32, F16 or BF16"
        else:
            wrong, expected = tensor.type in _INTEGERS, "floating-point numbers or a quantised type"
        if wrong:
            yield Problem(
                ProblemKind.WRONG_TYPE,
                f"{tensor.name} is of type {tensor.type}; its place asks for {expected}",
                layer=tensor.layer,
                tensor=tensor.name,
                expected=expected,
                found=tensor.type,
            )
