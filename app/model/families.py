"""Families: which of a block's tensors belong together, so that one tells of the others.

A block that has one tensor of a family has the whole family: a mixture without its router cannot be, whatever the
architecture. What else a block is made of differs by architecture and by block, and is the file's to say.
Source: what the classes in llama.cpp's src/models create, and when.
"""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

_BLOCK: Final = re.compile(r"(enc\.|dec\.)?blk\.([0-9]{1,9})\.(.+)", re.DOTALL)
_PARTS: Final = ("weight", "bias", "scale", "input_scale", "scales")


class Family(StrEnum):
    """What a tensor does in its block."""

    ATTENTION = "attention"
    RECURRENT = "recurrent"
    DENSE = "dense"
    EXPERTS = "experts"
    CHUNKS = "chunks"
    SHARED = "shared"
    INDEXER = "indexer"
    COMPRESSOR = "compressor"
    NEXTN = "nextn"
    COMMON = "common"
    """Norms, and what has no family: every block has these, or none."""


@dataclass(frozen=True, slots=True)
class Name:
    """A tensor's name, taken apart; `str` puts it together again."""

    stack: str
    """`enc.` or `dec.` where the model has two stacks of blocks."""
    block: int | None
    stem: str
    part: str
    """`weight`, `bias`, … or nothing."""

    @property
    def local(self) -> str:
        """The name within its block: `attn_q.weight`."""
        return f"{self.stem}.{self.part}" if self.part else self.stem

    def __str__(self) -> str:
        return self.local if self.block is None else f"{self.stack}blk.{self.block}.{self.local}"


# A description asks after each name several times; a long model has some thousands of them.
@lru_cache(maxsize=4096)
def take_apart(name: str) -> Name:
    """Take any text apart; what is no block's is in block None."""
    block = _BLOCK.fullmatch(name)
    stack, number, local = (block[1] or "", int(block[2]), block[3]) if block else ("", None, name)
    return Name(stack, number, *_stem_and_part(local))


# All blocks have the same few names.
@lru_cache(maxsize=1024)
def _stem_and_part(local: str) -> tuple[str, str]:
    stem, _, part = local.rpartition(".")
    return (stem, part) if stem and part in _PARTS else (local, "")


_FAMILIES: Final = (
    (Family.INDEXER, re.compile(r"indexer")),
    (Family.COMPRESSOR, re.compile(r".*compressor")),
    (Family.NEXTN, re.compile(r"nextn\.")),
    (Family.RECURRENT, re.compile(r"ssm_|shortconv\.|time_mix|channel_mix")),
    (Family.CHUNKS, re.compile(r".*_chexps")),
    (Family.EXPERTS, re.compile(r"ffn_.*_exps|ffn_gate_inp$|ffn_gate_tid2eid|exp_probs_b")),
    (Family.SHARED, re.compile(r".*_shexp")),
    (Family.DENSE, re.compile(r"ffn_(gate|up|down)$")),
    (Family.COMMON, re.compile(r"(attn|.*attention)_(output_|post_)?norm$")),
    (Family.ATTENTION, re.compile(r"attn_|cross_attn_")),
)


@lru_cache(maxsize=1024)
def family_of(stem: str) -> Family:
    """Find the family by the name alone, so that it works for tensors that nobody knows."""
    return next((family for family, pattern in _FAMILIES if pattern.match(stem)), Family.COMMON)


def stems_of(names: Iterable[str]) -> frozenset[str]:
    """Reduce names within a block to what they are the weight of: a bias or a scale alone is no such tensor."""
    parts = (_stem_and_part(name) for name in names)
    return frozenset(stem for stem, part in parts if part in {"weight", ""})


def needs(architecture: str, listed: Set[str], names: Set[str], elsewhere: Set[str]) -> set[str]:
    """Return what a block with the tensors `names` lacks; all names are within the block, `attn_k.weight`.

    `listed` are the stems that the architecture may have, `elsewhere` those that the blocks of this kind have.
    """
    stems, missing = stems_of(names), set[str]()
    families = {family_of(stem) for stem in stems}
    recurrent = Family.RECURRENT in families
    if architecture not in _IRREGULAR and (stems & _ATTENDS or ("attn_qkv" in stems and not recurrent)):
        missing |= _attention_needs(architecture, listed, stems, elsewhere)
    for family, alternatives, unless in _NEEDS:
        fits = family in families and architecture not in unless
        known = [stem for stem in alternatives if stem in listed]
        if fits and known and stems.isdisjoint(alternatives):
            missing.add(next((stem for stem in known if stem in elsewhere), known[0]))
    if missing >= _FUSED_EXPERTS:
        missing = missing - _FUSED_EXPERTS | {"ffn_gate_up_exps"}  # one is gone rather than two
    missing |= {bias for family, bias, those in _NEEDED_BIASES if family in families and architecture in those} - names
    return {stem if stem in _BARE else _with_part(architecture, stem) for stem in missing}


_ATTENDS: Final = frozenset({
    "attn_q", "attn_k", "attn_v", "attn_output", "attn_o", "attn_q_a", "attn_q_b",
    "attn_kv_a_mqa", "attn_kv_b", "attn_k_b", "attn_v_b",
})  # fmt: skip
_LATENT: Final = frozenset({"attn_kv_a_mqa", "attn_kv_a_norm", "attn_kv_b", "attn_k_b", "attn_v_b"})
_LOW_RANK_QUERY: Final = frozenset({"attn_q_a", "attn_q_a_norm", "attn_q_b"})
_FUSED_EXPERTS: Final = frozenset({"ffn_gate_exps", "ffn_up_exps"})

_NEEDED_BIASES: Final = (
    (
        Family.RECURRENT,
        "ssm_dt.bias",
        {"falcon-h1", "granitehybrid", "jamba", "kimi-linear", "mamba", "mamba2", "nemotron_h", "nemotron_h_moe",
         "plamo2", "qwen3next", "qwen35", "qwen35moe"},
    ),
    (Family.RECURRENT, "ssm_conv1d.bias", {"jamba", "mamba", "mamba2"}),
    (Family.EXPERTS, "exp_probs_b.bias", {"afmoe", "kimi-linear", "lfm2moe", "minimax-m2"}),
)  # fmt: skip

_BARE: Final = frozenset({"ssm_a", "ssm_d", *(bias for _, bias, _ in _NEEDED_BIASES)})
"""Names that are whole as they are."""

_IRREGULAR: Final = frozenset({"deci", "gemma4"})
"""Whose blocks may lack keys or values: deci replaces attention in some, gemma4 takes its keys for values."""

_NORMED_HYBRIDS: Final = frozenset({"lfm2", "lfm2moe", "plamo2", "qwen3next", "qwen35", "qwen35moe"})
"""Hybrids whose few attention blocks all have norms for queries and keys."""

_NEEDS: Final[tuple[tuple[Family, tuple[str, ...], Set[str]], ...]] = (
    (Family.DENSE, ("ffn_up",), frozenset()),
    (Family.DENSE, ("ffn_down",), frozenset()),
    (
        Family.DENSE,
        ("ffn_gate",),
        {"apertus", "grok", "jina-bert-v2", "mimo2", "plamo2", "smallthinker", "step35", "t5", "t5encoder"},
    ),
    (Family.EXPERTS, ("ffn_gate_inp",), frozenset()),
    (Family.EXPERTS, ("ffn_down_exps",), frozenset()),
    (Family.EXPERTS, ("ffn_up_exps", "ffn_gate_up_exps"), frozenset()),
    (Family.EXPERTS, ("ffn_gate_exps", "ffn_gate_up_exps"), {"grok", "nomic-bert-moe"}),
    (Family.SHARED, ("ffn_gate_shexp",), frozenset()),
    (Family.SHARED, ("ffn_up_shexp",), frozenset()),
    (Family.SHARED, ("ffn_down_shexp",), frozenset()),
    (Family.ATTENTION, ("attn_sinks",), {"mimo2"}),
    (Family.RECURRENT, ("ssm_in", "attn_qkv"), frozenset()),
    (Family.RECURRENT, ("ssm_in", "attn_gate"), frozenset()),
    (Family.RECURRENT, ("ssm_norm",), {"falcon-h1"}),
    (
        Family.RECURRENT,
        ("ssm_dt",),
        {"falcon-h1", "granitehybrid", "kimi-linear", "mamba2", "nemotron_h", "nemotron_h_moe",
         "qwen35", "qwen35moe", "qwen3next"},
    ),
    *(
        (Family.RECURRENT, (stem,), frozenset[str]())
        for stem in (
            "ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v", "ssm_x", "ssm_a", "ssm_d", "ssm_out",
            "ssm_b_norm", "ssm_c_norm", "ssm_dt_norm", "ssm_f_a", "ssm_f_b", "ssm_g_a", "ssm_g_b", "ssm_ba",
            "ssm_alpha", "ssm_beta", "shortconv.conv", "shortconv.in_proj", "shortconv.out_proj",
        )
    ),
)  # fmt: skip
"""Family, the tensors of which one must be there, and the architectures that do without."""


def _attention_needs(architecture: str, listed: Set[str], stems: Set[str], elsewhere: Set[str]) -> set[str]:
    output = {"attn_output", "attn_o"}
    missing = set() if stems & output else set(listed & output)
    if stems & _LATENT:
        missing |= {"attn_kv_a_mqa", "attn_kv_a_norm"} - stems
        if "attn_kv_b" not in stems:
            split = stems & {"attn_k_b", "attn_v_b"} or "attn_kv_b" not in listed
            missing |= {"attn_k_b", "attn_v_b"} - stems if split else {"attn_kv_b"}
        if "attn_q" not in stems:
            missing |= (_LOW_RANK_QUERY - stems) if stems & _LOW_RANK_QUERY else {"attn_q"}
    elif "attn_qkv" not in stems:
        fused = not stems & {"attn_q", "attn_k", "attn_v"} and "attn_qkv" in listed and "attn_q" not in elsewhere
        missing |= {"attn_qkv"} if fused else {"attn_q", "attn_k", "attn_v"} - stems
    if architecture in _NORMED_HYBRIDS:
        missing |= {"attn_q_norm", "attn_k_norm"} - stems
    return missing


def _with_part(architecture: str, stem: str) -> str:
    bare = architecture == "plamo2" and stem.startswith("ssm_") and stem.endswith("norm")
    return stem if bare else f"{stem}.weight"
