"""The kinds of tokenizer that `tokenizer.ggml.model` can name, and what each takes for granted where a file is silent.

Source: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp 0c1e57098, as packed in llama-cpp-python 0.3.36.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from app.errors import UnsupportedTokenizer


class Algorithm(StrEnum):
    """How a tokenizer finds its tokens."""

    SENTENCEPIECE = "sentencepiece"
    """Pairs are merged by the score of what they make; bytes are the fallback."""
    WORDPIECE = "wordpiece"
    """The longest token that fits, word by word."""
    BPE = "bpe"
    """Pairs are merged by their rank, within the pieces of a pre-tokenizer."""
    UNIGRAM = "unigram"
    """The best sum of scores."""
    RWKV = "rwkv"
    """The longest token that fits, over bytes."""
    PLAMO2 = "plamo2"
    """The best sum of scores, from the end of the text, over a table of suffixes."""
    NONE = "none"
    """The model has no vocabulary."""


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """Defaults of one kind; each is overridden by the file's own key of that name. None: there is no such token."""

    algorithm: Algorithm
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    sep: int | None = None
    pad: int | None = None
    mask: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    add_sep: bool = False
    add_space_prefix: bool = False
    clean_spaces: bool = False
    """Detokenizing takes out the spaces before punctuation and `'s`; for BPE its pre-tokenizer decides."""
    escape_spaces: bool = True
    """Each space becomes U+2581; for BPE its pre-tokenizer decides."""
    pre: str | None = None
    """The only pre-tokenizer that the kind uses, whatever the file says."""


_BPE: Final = TokenizerKind(Algorithm.BPE, bos=11, eos=11, clean_spaces=True, escape_spaces=False)
_NONE: Final = TokenizerKind(Algorithm.NONE)

TOKENIZER_KINDS: Final[Mapping[str, TokenizerKind]] = MappingProxyType(
    {
        "llama": TokenizerKind(Algorithm.SENTENCEPIECE, bos=1, eos=2, unk=0, add_bos=True, add_space_prefix=True),
        "gpt2": _BPE,
        "gemma4": TokenizerKind(Algorithm.BPE, clean_spaces=True, escape_spaces=False, pre="gemma4"),
        "hybriddna": _BPE,
        "whitespace": _BPE,
        "bert": TokenizerKind(
            Algorithm.WORDPIECE,
            bos=101,
            unk=100,
            sep=102,
            pad=0,
            mask=103,
            add_bos=True,
            add_sep=True,
            clean_spaces=True,
        ),
        "t5": TokenizerKind(Algorithm.UNIGRAM, eos=1, unk=2, pad=0, add_eos=True),
        "rwkv": TokenizerKind(Algorithm.RWKV),
        "plamo2": TokenizerKind(Algorithm.PLAMO2, bos=1, eos=2, unk=0, pad=3),
        "none": _NONE,
        "no_vocab": _NONE,
    }
)
"""By name. What `hybriddna` does between `<dna>` and `</dna>`, and the blanks that `whitespace` drops, are not here."""


def tokenizer_kind(name: str) -> TokenizerKind:
    """Find the kind that `tokenizer.ggml.model` names; raises `UnsupportedTokenizer` for one that nobody knows."""
    found = TOKENIZER_KINDS.get(name)
    if found is None:
        shown = name[:200]
        raise UnsupportedTokenizer(f"no tokenizer {shown!r} is known", key="tokenizer.ggml.model", tokenizer=shown)
    return found
