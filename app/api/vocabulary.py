"""What a model's tokens are, text to tokens, and tokens to text: of any model that can be read, loaded or not.

Answers may be megabytes: what is made of a text, JSON included, is made in the thread that tokenizes.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from pydantic_core import to_json

from app.api.bodies import DetokenizeBody, TokenizeBody
from app.api.deps import EntryDep, Limit, LoadmasterDep, Offset
from app.api.refusals import refusals
from app.api.schemas import ListOut, TextOut, TokensOut
from app.api.strict import StrictRoute
from app.residency.vocabularies import TokenRecord
from app.tokenizing import Tokenizer

JSON: Final = "application/json"

router = APIRouter(
    prefix="/v1/models", tags=["vocabulary"], route_class=StrictRoute, responses=refusals(404, 409, 422, 503)
)


@router.get("/{id:model}/vocabulary")
async def vocabulary(
    entry: EntryDep,
    loadmaster: LoadmasterDep,
    q: Annotated[str, Query(max_length=200, description="Only tokens that hold this, in text or piece.")] = "",
    offset: Offset = 0,
    limit: Limit = 1000,
) -> ListOut[TokenRecord]:
    """The tokens, in the order of their ids; none where the file has no vocabulary."""
    found, total = await loadmaster.vocabularies.find(entry, q, offset, offset + limit)
    return ListOut(data=found, total=total)


@router.post("/{id:model}/tokenize", response_model=TokensOut, responses=refusals(400, 413))
async def tokenize(entry: EntryDep, loadmaster: LoadmasterDep, body: TokenizeBody) -> Response:
    """The ids that llama.cpp has for a text."""

    def work(tokenizer: Tokenizer) -> bytes:
        ids = tokenizer.tokenize(body.content, add_special=body.add_special, parse_special=body.parse_special)
        return to_json({"tokens": _with_pieces(tokenizer, ids) if body.with_pieces else ids})

    return Response(await loadmaster.vocabularies.use(entry, work), media_type=JSON)


@router.post("/{id:model}/detokenize", response_model=TextOut, responses=refusals(400, 413))
async def detokenize(entry: EntryDep, loadmaster: LoadmasterDep, body: DetokenizeBody) -> Response:
    """The text that llama.cpp makes of these ids; U+FFFD for bytes that are only a part of a character."""

    def work(tokenizer: Tokenizer) -> bytes:
        return to_json({"content": tokenizer.detokenize(body.tokens)})

    return Response(await loadmaster.vocabularies.use(entry, work), media_type=JSON)


def _with_pieces(tokenizer: Tokenizer, ids: list[int]) -> list[dict[str, Any]]:
    """What each id stands for: text, or its bytes where they are none."""
    pieces: dict[int, str | list[int]] = {}
    for token in set(ids):
        piece = tokenizer.pieces[token]
        try:
            pieces[token] = piece.decode()
        except UnicodeDecodeError:
            pieces[token] = list(piece)
    return [{"id": token, "piece": pieces[token]} for token in ids]
