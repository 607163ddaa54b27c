"""Tokens and text, as they go out."""

from pydantic import BaseModel, Field


class TokenPieceOut(BaseModel):
    """A token and what it stands for."""

    id: int
    piece: str | list[int] = Field(description="Text, or bytes where it is only a part of a character.")


class TokensOut(BaseModel):
    """The tokens of a text."""

    tokens: list[int] | list[TokenPieceOut]


class TextOut(BaseModel):
    """The text of tokens."""

    content: str
