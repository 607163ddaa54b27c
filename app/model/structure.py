"""Structure: whether the file holds the model that its metadata describes.

Asks after every tensor of the architectures in `skeleton.TABLES`; of all others only what is certain of every
stack of blocks, for a false alarm would keep a good model from loading.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from app.model.architecture import has_blocks, is_known
from app.model.layers import Tensor
from app.model.model import Model
from app.model.problems import Problem, ProblemKind
from app.model.skeleton import ExpectedTensor, skeleton

_ATTENTION: Final = (".attn_q.weight", ".attn_qkv.weight")

_DRAFT_HEADS: Final = frozenset({"eagle3", "dflash"})
"""They may borrow embedding and vocabulary from the model they draft for."""


def structure_problems(model: Model) -> tuple[Problem, ...]:
    """List what is wrong: nothing in a sound model, or in a file that is no model or has no tensors.

    Looks at names and dimensions only, and never at data. Never raises.
    """
    if model.type != "model":
        return ()
    if not model.architecture:
        key = "general.architecture"
        message = f"{key} is missing or not a string"
        return (Problem(ProblemKind.MISSING, message, key=key, expected="a string"),)
    if not model.tensors or not (model.blocks or has_blocks(model.architecture)):
        return ()
    return (
        *model.hyperparameters.problems,
        *_block_problems(model),
        *_head_problems(model),
        *_expert_problems(model),
        *_embedding_problems(model),
        *_skeleton_problems(model),
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


def _embedding_problems(model: Model) -> Iterator[Problem]:
    """There is a token embedding, as wide as the model and with a row for every token."""
    if model.architecture in _DRAFT_HEADS or not is_known(model.architecture):
        return
    tensor = model.tensors_by_name.get("token_embd.weight")
    n_embd, n_vocab = model.hyperparameters.n_embd, model.hyperparameters.n_vocab
    if tensor is None:
        yield _missing_tensor(ExpectedTensor("token_embd.weight", "input", (n_embd, n_vocab), True, None))
        return
    # Files where `vocab_size` and the token list differ exist and load; either number will do.
    listed = model.vocabulary.n_tokens if model.vocabulary else None
    candidates = {n_vocab, listed or n_vocab}
    if not any(_agree(tensor, (n_embd, rows)) for rows in candidates):
        yield _wrong_dimensions(tensor, (n_embd, n_vocab))


def _skeleton_problems(model: Model) -> Iterator[Problem]:
    """Every tensor of the skeleton is there, with the skeleton's dimensions."""
    tensors = model.tensors_by_name
    embedding = tensors.get("token_embd.weight")
    hyperparameters = model.hyperparameters
    if embedding is not None and embedding.dimensions:
        # The output's rows are the embedding's; whether those are right was asked above, and is said once.
        hyperparameters = replace(hyperparameters, n_vocab=embedding.dimensions[-1])
    present = {layer.key for layer in model.layers}
    for expected in skeleton(model.architecture, hyperparameters):
        tensor = tensors.get(expected.name)
        if tensor is not None:
            if not _agree(tensor, expected.dimensions):
                yield _wrong_dimensions(tensor, expected.dimensions)
            continue
        # Of a block without any tensor it was said above that it is missing.
        said = isinstance(expected.layer, int) and expected.layer not in present
        if expected.required and expected.instead not in tensors and not said:
            yield _missing_tensor(expected)


def _agree(tensor: Tensor, expected: tuple[int | None, ...]) -> bool:
    """Whether the dimensions are the expected ones: None agrees with all, ones at the end do not count."""
    rank = max(len(tensor.dimensions), len(expected))
    found = tensor.dimensions + (1,) * (rank - len(tensor.dimensions))
    wanted = expected + (1,) * (rank - len(expected))
    return all(want in (None, have) for want, have in zip(wanted, found, strict=True))


def _missing_tensor(expected: ExpectedTensor) -> Problem:
    return Problem(
        ProblemKind.MISSING,
        f"{expected.name} is missing",
        layer=expected.layer,
        tensor=expected.name,
        expected=_shown(expected.dimensions),
        found="no tensor",
    )


def _wrong_dimensions(tensor: Tensor, expected: tuple[int | None, ...]) -> Problem:
    wanted, found = _shown(expected), _shown(tensor.dimensions)
    return Problem(
        ProblemKind.WRONG_DIMENSIONS,
        f"{tensor.name} has dimensions {found}, not {wanted}",
        layer=tensor.layer,
        tensor=tensor.name,
        expected=wanted,
        found=found,
    )


def _shown(dimensions: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in dimensions) + "]"
