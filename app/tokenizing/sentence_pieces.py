"""`llama`: pairs are merged, the one that makes the token of the highest score first; the leftmost of equal ones."""

import math
from typing import Final

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from app.errors import InvalidVocabulary
from app.model.tokens import KEY, Vocabulary
from app.tokenizing.pieces import SPACE, is_utf8, raw

_NORMAL: Final = ModelProto.SentencePiece.NORMAL
_UNMATCHED: Final = ModelProto.SentencePiece.CONTROL
_UNKNOWN: Final = ModelProto.SentencePiece.UNKNOWN
_NAMELESS: Final = "\ufffe"  # no character: begins the names of what no text can hold


class SentencePieces:
    """sentencepiece's own algorithm, which llama.cpp's is a copy of, over a model made of the file's tokens and scores.

    All that sentencepiece does besides is turned off: llama.cpp knows no types of tokens here, and prefix, spaces and
    bytes are done below, as it does them.
    """

    def __init__(self, vocabulary: Vocabulary, *, add_space_prefix: bool) -> None:
        self._vocabulary = vocabulary
        self._prefix = SPACE if add_space_prefix else ""
        self._unknown = len(vocabulary)
        try:
            self._processor = SentencePieceProcessor(model_proto=_model(vocabulary).SerializeToString())
        except RuntimeError as error:
            raise InvalidVocabulary(str(error), key=f"{KEY}tokens") from error

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """The ids; what has no token comes as bytes. InvalidVocabulary where a byte has no token either."""
        escaped = (self._prefix if starts else "") + text.replace(" ", SPACE)
        ids: list[int] = self._processor.encode(escaped, out_type=int)
        if self._unknown not in ids:
            return ids
        pieces: list[str] = self._processor.encode(escaped, out_type=str)
        return [one for token, piece in zip(ids, pieces, strict=True) for one in self._known(token, piece)]

    def _known(self, token: int, piece: str) -> list[int]:
        return [token] if token != self._unknown else [self._byte(byte) for byte in raw(piece)]

    def _byte(self, byte: int) -> int:
        ids = self._vocabulary.ids
        found = ids.get(f"<0x{byte:02X}>", ids.get(bytes([byte]).decode("utf-8", "surrogateescape")))
        if found is None:
            raise InvalidVocabulary(
                f"there is no token <0x{byte:02X}> for a byte that no other has", key=f"{KEY}tokens"
            )
        return found


def _model(vocabulary: Vocabulary) -> ModelProto:
    model = ModelProto()
    scores = vocabulary.scores or [0.0] * len(vocabulary)
    for token, (text, score) in enumerate(zip(vocabulary.texts, scores, strict=True)):
        if not math.isfinite(score):
            raise InvalidVocabulary(f"the score of token {token} is {score}", key=f"{KEY}scores")
        findable = is_utf8(text) and "\0" not in text
        model.pieces.add(
            piece=text if findable else f"{_NAMELESS}{token}", score=score, type=_NORMAL if findable else _UNMATCHED
        )
    model.pieces.add(piece=f"{_NAMELESS}unknown", type=_UNKNOWN)
    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.unk_id = len(vocabulary)
    trainer.bos_id = trainer.eos_id = trainer.pad_id = -1
    leave_alone(model)
    return model


def leave_alone(model: ModelProto) -> None:
    """Turn off all that sentencepiece would do to spaces."""
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = False
