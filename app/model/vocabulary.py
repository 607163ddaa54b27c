"""What the metadata says about the vocabulary, without decoding a single token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.gguf import Array, Value

_SPECIAL: Final = {
    "bos": ("bos",),
    "eos": ("eos",),
    "eot": ("eot",),
    "eom": ("eom",),
    "unk": ("unknown",),
    "sep": ("seperator",),  # the format's own spelling
    "pad": ("padding",),
    "cls": ("cls",),
    "mask": ("mask",),
    "fim_pre": ("fim_pre", "prefix"),  # the second names are the older ones
    "fim_suf": ("fim_suf", "suffix"),
    "fim_mid": ("fim_mid", "middle"),
    "fim_pad": ("fim_pad",),
    "fim_rep": ("fim_rep",),
    "fim_sep": ("fim_sep",),
}


@dataclass(frozen=True, slots=True)
class VocabularyFacts:
    """Facts about a vocabulary; None where the file does not say."""

    model: str | None
    """The tokenizer: `llama` (SentencePiece), `gpt2` (BPE), `bert` (WordPiece), `none`, …"""
    pre: str | None
    """How a BPE tokenizer cuts text before it merges."""
    n_tokens: int | None
    special: Mapping[str, int]
    """Ids by name (bos, eos, eot, eom, unk, sep, pad, cls, mask, fim_*), where the file has one in range."""
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None
    chat_template: bool
    """Whether the file brings one."""


def read_vocabulary(metadata: Mapping[str, Value]) -> VocabularyFacts | None:
    """Read the facts; None where the file has no vocabulary at all. Never raises."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    n_tokens = len(tokens) if isinstance(tokens, Array) else None
    model = _text(metadata, "tokenizer.ggml.model")
    if model is None and n_tokens is None:
        return None
    found = {name: _token_id(metadata, keys, n_tokens) for name, keys in _SPECIAL.items()}
    return VocabularyFacts(
        model=model,
        pre=_text(metadata, "tokenizer.ggml.pre"),
        n_tokens=n_tokens,
        special={name: token for name, token in found.items() if token is not None},
        add_bos=_flag(metadata, "add_bos_token"),
        add_eos=_flag(metadata, "add_eos_token"),
        add_space_prefix=_flag(metadata, "add_space_prefix"),
        chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
    )


def _token_id(metadata: Mapping[str, Value], keys: tuple[str, ...], n_tokens: int | None) -> int | None:
    """Find the first id that is a token's: files say -1, or its unsigned twin, for none."""
    for key in keys:
        value = metadata.get(f"tokenizer.ggml.{key}_token_id")
        in_range = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < (n_tokens or 2**31)
        if isinstance(value, int) and in_range:
            return value
    return None


def _text(metadata: Mapping[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _flag(metadata: Mapping[str, Value], name: str) -> bool | None:
    value = metadata.get(f"tokenizer.ggml.{name}")
    return value if isinstance(value, bool) else None
