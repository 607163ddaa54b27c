"""Structure: whether the file holds the model that its metadata describes.

Says only what is certain, for a false alarm would keep a good model from loading. Of an architecture that the tables
know: tensors that are missing, or shaped otherwise than the hyperparameters have it. Of any: keys and blocks that
contradict each other, and the one block that is not like its siblings.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

from app.model.agreement import Block, blocks_of, odd_dimensions, odd_ones_out
from app.model.architecture import has_blocks, is_known
from app.model.dimensions import agree, dimension_problems, shown, wrong_dimensions
from app.model.families import Family, needs, stems_of, take_apart
from app.model.layers import LayerKey, Tensor, layer_of
from app.model.model import Model
from app.model.problems import Problem, ProblemKind
from app.model.skeleton import Shape, has_name, listed_stems, required_names, shapes_of
from app.model.tensor_table import NOT_IN_TABLE
from app.model.types import type_problems
from app.model.widths import widths

_ATTENTION: Final = (".attn_q.weight", ".attn_qkv.weight")


def structure_problems(model: Model) -> tuple[Problem, ...]:
    """List what is wrong: nothing in a sound model, or in a file that is no model or has no tensors.

    Looks at names, dimensions and types only, and never at data. Never raises.
    """
    if model.type != "model":
        return ()
    if not model.architecture:
        key = "general.architecture"
        message = f"{key} is missing or not a string"
        return (Problem(ProblemKind.MISSING, message, key=key, expected="a string"),)
    if not model.tensors or not (model.blocks or has_blocks(model.architecture)):
        return ()
    of_keys = (
        *model.hyperparameters.problems,
        *_block_problems(model),
        *_head_problems(model),
        *_expert_problems(model),
    )
    said = {problem.key for problem in of_keys} - {None}
    return (
        *of_keys,
        *(problem for problem in _dimension_problems(model) if problem.key not in said),
        *_missing_tensors(model),
        *type_problems(model),
    )


def unexpected_tensors(model: Model) -> Iterator[Problem]:
    """Note the tensors of a known architecture whose names are in no table of the gguf package.

    An llama.cpp of that package's age refuses the file for one; a newer one may know them. Never raises.
    """
    if model.type != "model" or not is_known(model.architecture):
        return
    for tensor in model.tensors:
        if not has_name(take_apart(tensor.name)):
            yield Problem(
                ProblemKind.UNEXPECTED,
                f"{tensor.name} is a tensor that no known architecture has",
                layer=tensor.layer,
                tensor=tensor.name,
                found=shown(tensor.dimensions),
            )


def _block_problems(model: Model) -> Iterator[Problem]:
    """Each of the `block_count` blocks has tensors, and no other has."""
    n_layer = model.n_layer
    if n_layer is None:
        return
    key = f"{model.architecture}.block_count"
    present = {layer.key for layer in model.blocks}
    # Converters may count the NextN blocks and leave their tensors out; llama.cpp loads such a file.
    for number in range(n_layer - (model.hyperparameters.n_layer_nextn or 0)):
        if number not in present:
            yield Problem(
                ProblemKind.MISSING,
                f"block {number} has no tensors, though {key} is {n_layer}",
                layer=number,
                key=key,
                expected=f"blk.{number}.*",
                found="no tensors",
            )
    end = max(n_layer, model.hyperparameters.n_layer_dec or 0)
    for layer in model.blocks:
        if isinstance(layer.key, int) and layer.key >= end:
            name = layer.tensors[0].name
            yield Problem(
                ProblemKind.UNEXPECTED,
                f"{name} belongs to block {layer.key}, though {key} is {n_layer}",
                layer=layer.key,
                tensor=name,
                key=key,
                expected=f"blocks 0 to {end - 1}",
                found=f"block {layer.key}",
            )


def _head_problems(model: Model) -> Iterator[Problem]:
    """Where there is attention there are heads, and the key-value heads divide them."""
    n_head, n_head_kv = model.hyperparameters.n_head, model.hyperparameters.n_head_kv
    key = f"{model.architecture}.attention.head_count"
    attention = next((tensor for tensor in model.tensors if tensor.name.endswith(_ATTENTION)), None)
    unreadable = any(problem.key == key for problem in model.hyperparameters.problems)
    if attention is None or model.n_layer is None or unreadable:
        return
    if n_head is None or not any(n_head):
        yield Problem(
            ProblemKind.HYPERPARAMETER,
            f"{key} is 0 or absent, though there is {attention.name}",
            layer=attention.layer,
            tensor=attention.name,
            key=key,
            expected="1 or more",
            found="0 or absent",
        )
        return
    seen = set()
    for number, heads in enumerate(zip(n_head, n_head_kv or n_head, strict=True)):
        query, shared = heads
        # Once for each pair of numbers: most models have one for all their blocks.
        if shared and query % shared and heads not in seen:
            seen.add(heads)
            yield Problem(
                ProblemKind.HYPERPARAMETER,
                f"{key} {query} is no multiple of {key}_kv {shared} in block {number}",
                layer=number,
                key=f"{key}_kv",
                expected=f"a divisor of {query}",
                found=str(shared),
            )


def _expert_problems(model: Model) -> Iterator[Problem]:
    """No token goes to more experts than there are; llama.cpp aborts on it."""
    n_expert, used = model.hyperparameters.n_expert, model.hyperparameters.n_expert_used
    if n_expert and used and max(used) > n_expert:
        key = f"{model.architecture}.expert_used_count"
        message = f"{key} is {max(used)}, of {n_expert} experts"
        expected = f"at most {n_expert}"
        yield Problem(ProblemKind.HYPERPARAMETER, message, key=key, expected=expected, found=str(max(used)))


def _dimension_problems(model: Model) -> Iterator[Problem]:
    """Every tensor has the dimensions that the table works out; where it has none, those of its siblings."""
    if not is_known(model.architecture):
        yield from _odd_dimensions(model)
        return
    hyperparameters = model.hyperparameters
    embedding = model.tensors_by_name.get("token_embd.weight")
    # Files where `vocab_size` and the token list differ exist and load; the embedding's rows tell which is meant.
    listed = model.vocabulary.n_tokens if model.vocabulary else None
    if embedding is not None and embedding.dimensions[-1:] == (listed,):
        hyperparameters = replace(hyperparameters, n_vocab=listed)
    yield from dimension_problems(model, hyperparameters)


def _odd_dimensions(model: Model) -> Iterator[Problem]:
    """Of an architecture that nobody knows: one tensor shaped otherwise than all its siblings."""

    def fits(tensor: Tensor) -> bool:
        shapes = _shapes_of(model, tensor.name)
        return any(agree(tensor.dimensions, shape.sizes) for shape in shapes)

    h = model.hyperparameters
    arrays = (
        (Family.ATTENTION, (h.n_head, h.n_head_kv, h.sliding_window_pattern)),
        (Family.DENSE, (h.n_ff,)),
        (Family.EXPERTS, (h.n_ff_exp,)),
    )
    varying = {family for family, of_family in arrays if any(array and len(set(array)) > 1 for array in of_family)}
    for tensor, usual in odd_dimensions(blocks_of(model), fits, varying):
        yield wrong_dimensions(tensor, usual)


def _missing_tensors(model: Model) -> Iterator[Problem]:
    """Nothing is missing that the architecture, the rest of a block, or its siblings ask for."""
    known = is_known(model.architecture)
    tensors = model.tensors_by_name
    for name in required_names(model.architecture) if known else ():
        if name not in tensors:
            yield _missing_tensor(name, layer_of(name, model.architecture), _dimensions_of(model, name))
    blocks = blocks_of(model)
    missing: dict[str, tuple[int | None, ...]] = {}
    if known and model.architecture not in NOT_IN_TABLE:
        for block, local in _needed(blocks, model.architecture):
            missing[block.name(local)] = _dimensions_of(model, block.name(local))
    for block, local, sibling in odd_ones_out(blocks, model.architecture, _may_be_there(known=known)):
        missing.setdefault(block.name(local), sibling.dimensions)
    for name, dimensions in missing.items():
        yield _missing_tensor(name, layer_of(name), dimensions)


def _may_be_there(*, known: bool) -> Callable[[str], bool]:
    """Of a known architecture the names of the tables count; of another anything goes."""
    return lambda local: not known or has_name(take_apart(f"blk.0.{local}"))


def _needed(blocks: tuple[Block, ...], architecture: str) -> Iterator[tuple[Block, str]]:
    listed = listed_stems(architecture)
    of_kind = {
        kind: stems_of(chain.from_iterable(block.names for block in blocks if block.recurrent is kind))
        for kind in (False, True)
    }
    for block in blocks:
        for local in sorted(needs(architecture, listed, block.names, of_kind[block.recurrent])):
            yield block, local


def _dimensions_of(model: Model, name: str) -> tuple[int | None, ...]:
    shapes = _shapes_of(model, name)
    return shapes[0].sizes if shapes else ()


def _shapes_of(model: Model, name: str) -> tuple[Shape, ...]:
    parts = take_apart(name)
    return shapes_of(parts, model.architecture, widths(model.hyperparameters, parts.block))


def _missing_tensor(name: str, layer: LayerKey, dimensions: tuple[int | None, ...]) -> Problem:
    return Problem(
        ProblemKind.MISSING,
        f"{name} is missing",
        layer=layer,
        tensor=name,
        expected=shown(dimensions) if dimensions else None,
        found="no tensor",
    )
