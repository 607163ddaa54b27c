"""Dimensions: whether the tensors are shaped as the hyperparameters have them, and which of the two is at fault.

One tensor against all others is a damaged tensor. Where every tensor that follows from a key contradicts it, the
key is at fault, and is named once instead of all of them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.model.families import take_apart
from app.model.hyperparameters import Hyperparameters
from app.model.layers import Tensor
from app.model.model import Model
from app.model.problems import Problem, ProblemKind
from app.model.skeleton import Shape, shapes_of
from app.model.widths import Widths, keys_of, widths

_Dimensions = Sequence[int | None]


@dataclass(frozen=True, slots=True)
class _Owed:
    """What a key says: of an array each number by itself, for only the blocks with that number follow from it."""

    key: str
    value: int | None


@dataclass(frozen=True, slots=True)
class _Expectation:
    """A tensor that the table has, with its possible shapes and the widths of its block."""

    tensor: Tensor
    shapes: tuple[Shape, ...]
    of_block: Widths

    @property
    def fitting(self) -> Shape | None:
        """The shape that the tensor has; None for a wrong one."""
        return next((shape for shape in self.shapes if agree(self.tensor.dimensions, shape.sizes)), None)

    def owed(self, shape: Shape) -> Iterator[tuple[_Owed, bool]]:
        """List what the dimensions of a shape are owed to, and whether the tensor has them."""
        pairs = _side_by_side(self.tensor.dimensions, shape.sizes)
        for width, (want, have) in zip(shape.widths, pairs, strict=False):
            if want is not None:
                yield from ((_Owed(key, value), want == have) for key, value in keys_of(width, self.of_block))


def dimension_problems(model: Model, hyperparameters: Hyperparameters) -> Iterator[Problem]:
    """List the tensors that are not shaped as they should be, and the keys that say so wrongly."""
    wrong: list[_Expectation] = []
    agreeing: set[_Owed] = set()
    contradicting: defaultdict[_Owed, list[Tensor]] = defaultdict(list)
    for expectation in _expected(model, hyperparameters):
        fitting = expectation.fitting
        if fitting is None:
            wrong.append(expectation)
        for owed, fits in expectation.owed(fitting or expectation.shapes[0]):
            if fits:
                agreeing.add(owed)
            else:
                contradicting[owed].append(expectation.tensor)
    at_fault = _at_fault({owed: found for owed, found in contradicting.items() if owed not in agreeing})
    yield from (_contradicted(model.architecture, owed, found) for owed, found in at_fault.items())
    for expectation in wrong:
        owing = {owed for shape in expectation.shapes for owed, fits in expectation.owed(shape) if not fits}
        if owing.isdisjoint(at_fault):
            yield wrong_dimensions(expectation.tensor, expectation.shapes[0].sizes)


def _at_fault(contradicting: Mapping[_Owed, list[Tensor]]) -> dict[_Owed, list[Tensor]]:
    """Choose the keys that explain two wrong tensors or more, and of two that explain the same the one with more."""
    chosen: dict[_Owed, list[Tensor]] = {}
    explained: set[str] = set()
    for owed, tensors in sorted(contradicting.items(), key=lambda pair: -len(pair[1])):
        names = {tensor.name for tensor in tensors}
        if len(names) > 1 and not names <= explained:
            chosen[owed] = tensors
            explained |= names
    return chosen


def agree(found: Sequence[int], expected: _Dimensions) -> bool:
    """Whether dimensions are the expected ones: None agrees with all, ones at the end do not count."""
    return all(want in (None, have) for want, have in _side_by_side(found, expected))


def wrong_dimensions(tensor: Tensor, expected: _Dimensions) -> Problem:
    """Say that a tensor has other dimensions than expected."""
    wanted, found = shown(expected), shown(tensor.dimensions)
    return Problem(
        ProblemKind.WRONG_DIMENSIONS,
        f"{tensor.name} has dimensions {found}, not {wanted}",
        layer=tensor.layer,
        tensor=tensor.name,
        expected=wanted,
        found=found,
    )


def shown(dimensions: _Dimensions) -> str:
    """Write dimensions as people do, `?` where they are unknown."""
    return "[" + ", ".join("?" if size is None else str(size) for size in dimensions) + "]"


def _expected(model: Model, hyperparameters: Hyperparameters) -> Iterator[_Expectation]:
    # Most models are as wide in all their blocks, so that little is left to work out after the first.
    worked_out: defaultdict[tuple[int | None, ...], dict[str, tuple[Shape, ...]]] = defaultdict(dict)
    of_block: dict[int | None, tuple[Widths, dict[str, tuple[Shape, ...]]]] = {}
    for tensor in model.tensors:
        name = take_apart(tensor.name)
        if name.block not in of_block:
            of_here = widths(hyperparameters, name.block)
            of_block[name.block] = of_here, worked_out[name.block is None, *of_here.values()]
        of_here, shapes = of_block[name.block]
        if name.local not in shapes:
            shapes[name.local] = shapes_of(name, model.architecture, of_here)
        if shapes[name.local]:
            yield _Expectation(tensor, shapes[name.local], of_here)


def _contradicted(architecture: str, owed: _Owed, tensors: Sequence[Tensor]) -> Problem:
    key, first = f"{architecture}.{owed.key}", tensors[0]
    found = shown(first.dimensions)
    return Problem(
        ProblemKind.HYPERPARAMETER,
        f"{key} is {owed.value}, and none of {len(tensors)} tensors is shaped so: {first.name} has dimensions {found}",
        layer=first.layer,
        tensor=first.name,
        key=key,
        expected=None,
        found=str(owed.value),
    )


def _side_by_side(found: Sequence[int], expected: _Dimensions) -> Iterator[tuple[int | None, int]]:
    rank = max(len(found), len(expected))
    padded = (*found, *(1,) * (rank - len(found)))
    return zip((*expected, *(1,) * (rank - len(expected))), padded, strict=True)
