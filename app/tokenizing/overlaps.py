"""Which special tokens may overlap each other in a text: where they do, it matters which of them is taken first."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from typing import Final

MAX_LENGTH: Final = 64
MAX_OVERLAPPING: Final = 100
"""So many tokens may be looked for one by one; files in the field have a handful, if any."""


def overlapping(tokens: Collection[str]) -> list[str]:
    """Tokens that begin as another ends, or hold one of these; the longest in bytes first, else in their order.

    None if there are more than MAX_OVERLAPPING; those of more than MAX_LENGTH characters are not looked at.

    All others can be looked for later: they overlap none of these but those that they are a part of.
    """
    ordered = sorted(token for token in tokens if len(token) <= MAX_LENGTH)
    found: set[str] = set()
    for token, others in _meetings(ordered):
        found.update((token, *others))
        if len(found) > MAX_OVERLAPPING:
            return []
    found |= {token for token in ordered if any(part in token for part in found)}
    if len(found) > MAX_OVERLAPPING:
        return []
    return sorted((token for token in tokens if token in found), key=lambda token: len(token.encode()), reverse=True)


def _meetings(ordered: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each token that ends as others begin, without being a part of them, with a few more of those than may be.

    Runs of one character are left out: whichever way they are looked for, the same ones are found.
    """
    beginnings = {token[0] for token in ordered}
    for token in ordered:
        for place in range(1, len(token)):
            if token[place] not in beginnings:
                continue
            end = token[place:]
            near = _beginning_with(end, ordered)
            others = [other for other in near if other not in (end, token) and len({*token, *other}) > 1]
            if others:
                yield token, others


def _beginning_with(end: str, ordered: list[str]) -> Iterator[str]:
    first = bisect_left(ordered, end)
    for place in range(first, min(first + MAX_OVERLAPPING + 3, len(ordered))):
        if not ordered[place].startswith(end):
            return
        yield ordered[place]


def parted(text: str, tokens: Iterable[str]) -> list[str]:
    """Cut a text at each of these tokens in turn: text and tokens by turns, text first and last, maybe empty."""
    parts = [text]
    for token in tokens:
        if token in text:
            parts = [piece for place, part in enumerate(parts) for piece in _cut(part, token, place)]
    return parts


def _cut(part: str, token: str, place: int) -> Iterator[str]:
    if place % 2:  # a token already
        yield part
        return
    first, *others = part.split(token)
    yield first
    for other in others:
        yield token
        yield other
