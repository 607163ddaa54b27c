"""Agreement: what the blocks of one model say about each other, of whatever architecture.

Blocks that are made alike have the same tensors, so the one block that lacks what all its siblings have is damaged.
Alike means: the same family of tensors for the same job. Of a hybrid only the attention blocks are siblings in
attention; of a mixture only the blocks with experts are in experts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from app.model.families import Family, family_of, stems_of, take_apart
from app.model.layers import Tensor
from app.model.model import Model

_OWN_BUSINESS: Final = frozenset({
    "attn_rel_b", "cross_attn_rel_b", "attn_sinks", "layer_output_scale", "exp_probs_b_vl", "ffn_gate_tid2eid",
})  # fmt: skip
"""What one block may have and the next not: T5's first block has the position bias for all."""

_MIXERS: Final = {Family.ATTENTION, Family.RECURRENT}

_IRREGULAR: Final = frozenset({"deci", "gemma4", "modern-bert"})
"""Architectures whose blocks differ by design in what they attend with, or in the norm before it."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a stack, with its tensors by their names within the block, apart by family."""

    stack: str
    number: int
    families: Mapping[Family, Mapping[str, Tensor]]

    @property
    def names(self) -> frozenset[str]:
        """The names within the block: `attn_q.weight`."""
        return frozenset(local for tensors in self.families.values() for local in tensors)

    @property
    def recurrent(self) -> bool:
        """Whether the block carries a state from token to token."""
        return Family.RECURRENT in self.families

    @property
    def manner(self) -> tuple[bool, ...]:
        """How the block mixes its tokens: blocks that do it in another manner are no siblings in it."""
        attention = stems_of(self.families.get(Family.ATTENTION, ()))
        return self.recurrent, bool(attention & {"attn_kv_a_mqa", "attn_kv_a_norm"}), "attn_qkv" in attention

    def name(self, local: str) -> str:
        """Put a name within the block together with the block's."""
        return f"{self.stack}blk.{self.number}.{local}"


def blocks_of(model: Model) -> tuple[Block, ...]:
    """Take the model apart; blocks for multi-token prediction, which are like no other, are left out."""
    members: defaultdict[tuple[str, int], defaultdict[Family, dict[str, Tensor]]]
    members = defaultdict(lambda: defaultdict(dict))
    for tensor in model.tensors:
        name = take_apart(tensor.name)
        if name.block is not None:
            members[name.stack, name.block][family_of(name.stem)][name.local] = tensor
    end = (model.n_layer or 0) - (model.hyperparameters.n_layer_nextn or 0)
    return tuple(
        Block(stack, number, dict(families))
        for (stack, number), families in sorted(members.items())
        if number < end and Family.NEXTN not in families
    )


def odd_ones_out(
    blocks: Collection[Block], architecture: str, counts: Callable[[str], bool]
) -> Iterator[tuple[Block, str, Tensor]]:
    """List what exactly one of several siblings lacks: the block, the name within it, and a sibling's tensor.

    Names that do not count are nobody's to lack.
    """
    for family, siblings in _siblings(blocks):
        if architecture in _IRREGULAR and family in {Family.ATTENTION, Family.COMMON}:
            continue
        holders: defaultdict[str, list[Block]] = defaultdict(list)
        for block in siblings:
            for local in block.families.get(family, ()):
                holders[local].append(block)
        odd = [local for local, having in holders.items() if len(having) == len(siblings) - 1 and counts(local)]
        if len(siblings) == 2 and len(odd) > 1:
            continue  # two blocks that differ in more than one tensor are no siblings, but made differently
        for local in filter(_is_shared_business, odd):
            having = holders[local]
            (lacking,) = (block for block in siblings if block not in having)
            yield lacking, local, having[0].families[family][local]


def odd_dimensions(
    blocks: Collection[Block], fits: Callable[[Tensor], bool], varying: Set[Family]
) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """List the tensors that one block has in other dimensions than all its siblings, and what those have.

    Of two blocks the one is odd that does not fit while its sibling `fits`. Where layers differ by design, in the
    `varying` families, nothing can be told.
    """
    for family, siblings in _siblings(blocks):
        tensors: defaultdict[str, list[Tensor]] = defaultdict(list)
        for block in siblings:
            for local, tensor in block.families.get(family, {}).items():
                tensors[local].append(tensor)
        for same in tensors.values() if family not in varying else ():
            odd = _odd_one(same, fits)
            if odd is not None:
                yield odd, next(tensor.dimensions for tensor in same if tensor.dimensions != odd.dimensions)


def _odd_one(same: Sequence[Tensor], fits: Callable[[Tensor], bool]) -> Tensor | None:
    counts = Counter(tensor.dimensions for tensor in same)
    if len(counts) != 2:
        return None
    single = [tensor for tensor in same if counts[tensor.dimensions] == 1]
    if len(same) == 2:
        single = [tensor for tensor in same if not fits(tensor)]
    return single[0] if len(single) == 1 else None


def _siblings(blocks: Collection[Block]) -> Iterator[tuple[Family, list[Block]]]:
    """Group the blocks by what they have of each family; a block is in as many groups as it has families."""
    groups: defaultdict[tuple[Family, str, object], list[Block]] = defaultdict(list)
    for block in blocks:
        present = {family for family, tensors in block.families.items() if stems_of(tensors)}
        for family in present | {Family.COMMON}:
            groups[family, block.stack, block.manner if family in _MIXERS else None].append(block)
    for (family, _, _), siblings in groups.items():
        if len(siblings) > 1:
            yield family, siblings


def _is_shared_business(local: str) -> bool:
    name = take_apart(local)
    # A quantised tensor may bring a scale, and its neighbour, in another type, need none.
    return name.stem not in _OWN_BUSINESS and "scale" not in name.part
