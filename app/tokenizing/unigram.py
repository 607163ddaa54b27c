"""`t5`: of all ways to cut a text into tokens, the one with the highest sum of scores.

Source: `llm_tokenizer_ugm` and its session in src/llama-vocab.cpp of llama.cpp 0c1e57098.
"""

import math
from typing import Final

from sentencepiece import SentencePieceNormalizer
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from app.errors import InvalidVocabulary
from app.model.special_tokens import Attribute
from app.model.tokens import KEY, Vocabulary
from app.tokenizing.pieces import SPACE, is_utf8
from app.tokenizing.sentence_pieces import leave_alone

_MATCHED: Final = Attribute.NORMAL | Attribute.USER_DEFINED | Attribute.UNUSED
_NO_CHARACTER: Final = "\ufffe"


class Scored:
    """The library's Unigram over the tokens that a text may hold, after sentencepiece has normalised it.

    `charsmap` is sentencepiece's own table of replacements, as the file brings it; empty for none.
    """

    def __init__(
        self, vocabulary: Vocabulary, charsmap: bytes, *, add_space_prefix: bool, remove_extra_spaces: bool
    ) -> None:
        self._add_space_prefix = add_space_prefix
        self._remove_extra_spaces = remove_extra_spaces
        self._normalizer = _normalizer(charsmap) if charsmap else None
        unknown = vocabulary.special.get("unk")
        if unknown is None:
            raise InvalidVocabulary("there is no unknown token", key=f"{KEY}unknown_token_id")
        self._ids, pieces = [unknown], [(_NO_CHARACTER, 0.0)]
        for token, text in enumerate(vocabulary.texts):
            if vocabulary.attributes[token] & _MATCHED and is_utf8(text):
                self._ids.append(token)
                pieces.append((text, _score(vocabulary, token)))
        pieces[0] = (_NO_CHARACTER, min((score for _, score in pieces[1:]), default=0.0))
        self._tokenizer = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=False))

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """The ids; where the text stands makes no difference. What has no token is unknown, a run of it once."""
        del starts
        normal = self._spaced(text if self._normalizer is None else self._normalizer.normalize(text))
        (found,) = self._tokenizer.encode_batch_fast([normal], add_special_tokens=False)  # lets other threads work
        return [self._ids[number] for number in found.ids]

    def _spaced(self, text: str) -> str:
        """Spaces as tokens have them: one before each word, or as many as there are and one more at the beginning."""
        if self._remove_extra_spaces:
            return "".join(SPACE + word for word in text.split(" ") if word)
        prefix = SPACE if self._add_space_prefix and text.strip(" ") else ""
        return prefix + text.replace(" ", SPACE)


def _score(vocabulary: Vocabulary, token: int) -> float:
    """What a token adds to the sum: nothing, where a user has defined it."""
    if vocabulary.scores is None or vocabulary.attributes[token] & Attribute.USER_DEFINED:
        return 0.0
    score = vocabulary.scores[token]
    if not math.isfinite(score):
        raise InvalidVocabulary(f"the score of token {token} is {score}", key=f"{KEY}scores")
    return score


def _normalizer(charsmap: bytes) -> SentencePieceNormalizer:
    model = ModelProto()
    model.normalizer_spec.precompiled_charsmap = charsmap
    leave_alone(model)
    try:
        return SentencePieceNormalizer(model_proto=model.SerializeToString())
    except RuntimeError as error:
        raise InvalidVocabulary(str(error), key=f"{KEY}precompiled_charsmap") from error
