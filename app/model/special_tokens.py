"""Which tokens are more than text: by their type, and by what they say, for files tell only half of it.

Source: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp 0c1e57098, as packed in llama-cpp-python 0.3.36.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Final


class TokenType(IntEnum):
    """What the file says that a token is."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Attribute(IntFlag):
    """What a token is taken for; there may be several, or none."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 4
    USER_DEFINED = 8
    UNUSED = 16
    BYTE = 32
    LSTRIP = 64
    """The spaces before it belong to it."""
    RSTRIP = 128
    """The spaces after it belong to it."""


SPECIAL: Final = Attribute.CONTROL | Attribute.USER_DEFINED | Attribute.UNKNOWN
"""Found in text as a whole, before anything else is. Of these, only user-defined ones may always be."""

ATTRIBUTES: Final = MappingProxyType(
    {
        TokenType.UNDEFINED: Attribute(0),
        TokenType.NORMAL: Attribute.NORMAL,
        TokenType.UNKNOWN: Attribute.UNKNOWN,
        TokenType.CONTROL: Attribute.CONTROL,
        TokenType.USER_DEFINED: Attribute.USER_DEFINED,
        TokenType.UNUSED: Attribute.UNUSED,
        TokenType.BYTE: Attribute.BYTE,
    }
)

_DEEPSEEK: Final = "<\uff5c{}\uff5c>"  # fullwidth bars

_BY_TEXT: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "eot": (
            "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>",
            "_<EOT>", "[EOT]", _DEEPSEEK.format("end▁of▁sentence"), "<end_of_utterance>",
        ),
        "eom": ("<|eom_id|>",),
        "fim_pre": (
            "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", _DEEPSEEK.format("fim▁begin"), "<PRE>", "▁<PRE>",
            "<|code_prefix|>", "<|prefix|>",
        ),
        "fim_suf": (
            "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", _DEEPSEEK.format("fim▁hole"), "<SUF>", "▁<SUF>",
            "<|code_suffix|>", "<|suffix|>",
        ),
        "fim_mid": (
            "<|fim_middle|>", "<fim-middle>", "<fim_middle>", _DEEPSEEK.format("fim▁end"), "<MID>", "▁<MID>",
            "<|code_middle|>", "<|middle|>",
        ),
        "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
        "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
        "fim_sep": ("<|file_sep|>",),
    }
)  # fmt: skip
"""What has the role where the file names nobody; of several the one with the lowest id (llama.cpp: any of them)."""

_ENDS_GENERATION: Final = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", _DEEPSEEK.format("end▁of▁sentence"), "[e~[",
})  # fmt: skip
_ENDING_ROLES: Final = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_JINA: Final = ("jina-v2-de", "jina-v2-es", "jina-v2-code")
_MASKED: Final = ("nomic-bert-moe", "jina-bert-v3")
_ALWAYS_SHOWN: Final = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


def roles(ids: Mapping[str, int], declared: Mapping[str, int]) -> dict[str, int]:
    """The ids of special tokens by name (bos, eos, eot, …): what is declared, and what is known by its text."""
    found = dict(declared)
    for role, texts in _BY_TEXT.items():
        there = [ids[text] for text in texts if text in ids]
        if role not in found and there:
            found[role] = min(there)
    return found


def attributes(
    types: Sequence[TokenType], ids: Mapping[str, int], declared: Mapping[str, int], special: Mapping[str, int]
) -> list[Attribute]:
    """What each token is taken for. `special` are all roles, `declared` those that are not known by their text."""
    found = [ATTRIBUTES[kind] for kind in types]
    ending = {ids[text] for text in _ENDS_GENERATION if text in ids}
    for token in ending.union(token for role, token in special.items() if role not in declared):
        found[token] |= Attribute.CONTROL
    for text in _ALWAYS_SHOWN:
        if text in ids:
            found[ids[text]] = Attribute.USER_DEFINED
    _except(found, ids, ending.union(special[role] for role in _ENDING_ROLES if role in special))
    return found


def _except(found: list[Attribute], ids: Mapping[str, int], ending: set[int]) -> None:
    """Two names that end nothing where certain others do."""

    def ends(*texts: str) -> bool:
        return any(ids.get(text) in ending for text in texts)

    calls = ends("<|call|>", "<|calls|>")
    if ends("<|end|>") and calls and ends("<|return|>", "<|flush|>"):
        found[ids["<|end|>"]] = Attribute.USER_DEFINED
    if ends("</s>") and ends("<|tool_response>", "<|plamo:eos|>"):
        found[ids["</s>"]] = Attribute.NORMAL


def strip(found: list[Attribute], ids: Mapping[str, int], *, name: str, architecture: str, pre: str) -> None:
    """Mark the tokens that take the spaces beside them; files do not say so, llama.cpp knows a few models by name.

    By `general.name`, `general.architecture` and `tokenizer.ggml.pre`.
    """
    name, left = name.lower(), ""
    if any(known in pre for known in _JINA) or any(known in architecture for known in _MASKED):
        left = "<mask>"
    elif "phi-3" in name or "phi3" in name:
        kept = {ids.get(text) for text in ("<unk>", "<s>", "<|endoftext|>")}
        for token, attribute in enumerate(found):
            if (attribute & SPECIAL or token == ids.get("</s>")) and token not in kept:
                found[token] |= Attribute.RSTRIP
    elif "modern-bert" in name:
        left = "[MASK]"
    if left in ids:
        found[ids[left]] |= Attribute.LSTRIP
