r"""`rwkv`: the longest token that fits, over bytes. Tokens are written with `\n`, `\x00` and the like.

Source: `llama_unescape_rwkv_token` and `llm_tokenizer_rwkv` in src/llama-vocab.cpp of llama.cpp 0c1e57098.
"""

import re
from typing import Final

from app.errors import InvalidVocabulary
from app.model.tokens import KEY, Vocabulary
from app.tokenizing.longest import LongestMatch
from app.tokenizing.pieces import raw

_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_NAMED: Final = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


class LongestBytes:
    """Bytes by longest match; of tokens with the same bytes the last one."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        texts = ((unescaped(text), token) for token, text in enumerate(vocabulary.texts))
        self._match = LongestMatch({text: token for text, token in texts if text})

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """The ids; where the text stands makes no difference. InvalidVocabulary for a byte that has no token."""
        del starts
        found = self._match.tokens(text.encode())
        if found is None:
            raise InvalidVocabulary("the text holds a byte that begins no token", key=f"{KEY}tokens")
        return found


def unescaped(text: str) -> bytes:
    """The bytes that a token stands for."""
    return _ESCAPE.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else _NAMED.get(found[2], found[2]), raw(text)
    )
