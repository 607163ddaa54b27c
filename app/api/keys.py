"""Keys: who calls, and, in `role_needed` alone, which role a route needs.

A route that nobody thought of here is closed, not open: what is not named needs a key, and what may change something
needs an administrator's. docs/security.md says the same to those who run the service.
"""

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import raw_error_response
from app.api.traffic import SAFE
from app.errors import InvalidValue

OPEN: Final = frozenset({"/", "/healthz", "/readyz"})
OPEN_FILES: Final = "/static/"
"""What is read without a key: probes, and the dashboard's own page and files, which hold no data."""

READ_BY_POST: Final = re.compile(r"/v1/models/(?s:.+)/(plan|tokenize|detokenize)|/api/show|/v2/repository/index")
"""POST for the sake of its body alone: it changes nothing and begins no work that outlives the answer."""

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECRET: Final = re.compile(r"[!-+\--~]{16,512}")  # what a header can carry, without the comma that parts keys
HINT: Final = "send it as `Authorization: Bearer KEY` or as `X-Api-Key: KEY`"


class Role(StrEnum):
    """What a key is for. An administrator may do all that a reader may."""

    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Key:
    """One caller. Of the key itself only the SHA-256 is kept, so that nothing can print it."""

    name: str
    role: Role
    digest: bytes = field(repr=False)


def role_needed(method: str, path: str) -> Role | None:
    """The role that a call needs; None where it needs no key."""
    if method in SAFE:
        return None if path in OPEN or path.startswith(OPEN_FILES) else Role.READ
    return Role.READ if method == "POST" and READ_BY_POST.fullmatch(path) else Role.ADMIN


def parse_keys(variable: str | None, file: str | None) -> tuple[Key, ...]:
    """The keys of a variable, `name:role:key` parted by commas, and of a file, one a line, `#` begins a comment.

    Raises InvalidValue, also where there is none in one of them: whoever meant to have keys must not run without. It
    tells the place of an entry and never what it holds, which may be the key.
    """
    keys: list[Key] = []
    for where, entry in [*_in_variable(variable), *_in_file(file)]:
        key = _parsed(where, entry)
        for other in keys:
            if other.name == key.name:
                raise InvalidValue(f"{where}: the name {key.name} is there twice")
            if hmac.compare_digest(other.digest, key.digest):
                raise InvalidValue(f"{where}: {key.name} has the same key as {other.name}")
        keys.append(key)
    return tuple(keys)


def _in_variable(text: str | None) -> list[tuple[str, str]]:
    if text is None:
        return []
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise InvalidValue("LOADMASTER_API_KEYS is set and holds no key; unset it to go without")
    return [(f"LOADMASTER_API_KEYS, key {number}", entry) for number, entry in enumerate(entries, start=1)]


def _in_file(text: str | None) -> list[tuple[str, str]]:
    if text is None:
        return []
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    entries = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not entries:
        raise InvalidValue("LOADMASTER_API_KEYS_FILE is set, and its file holds no key; unset it to go without")
    return [(f"LOADMASTER_API_KEYS_FILE, line {number}", entry) for number, entry in entries]


def _parsed(where: str, entry: str) -> Key:
    name, role, secret = ([*entry.split(":", 2), "", ""])[:3]
    if not NAME.fullmatch(name) or role not in list(Role):
        raise InvalidValue(f"{where}: expected name:role:key, the role read or admin, the name letters, digits, . _ -")
    if not SECRET.fullmatch(secret):
        raise InvalidValue(f"{where}: the key must be 16 to 512 visible ASCII characters without a comma")
    return Key(name, Role(role), sha256(secret.encode()).digest())


class Lock:
    """Lets in whoever has a key of the role that is needed: 401 without one, 403 with one that is not enough.

    Of a stream the key is looked at when it opens. Keys are read at the start, so that taking one away is a restart,
    which ends all streams.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[Key]) -> None:
        self.app = app
        self.keys = tuple(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the key before anything else is read, then pass the call on."""
        if scope["type"] == "http":
            needed = role_needed(scope["method"], scope["path"])
            if needed is not None and (refusal := self._refusal(scope, needed)) is not None:
                await raw_error_response(*refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, needed: Role) -> tuple[HTTPStatus, str, str | None, dict[str, str]] | None:
        shown = _shown(scope["headers"])
        if shown is None:
            challenge = {"WWW-Authenticate": 'Bearer realm="loadmaster"'}
            return HTTPStatus.UNAUTHORIZED, f"a key is needed: {HINT}", "Authorization", challenge
        key = self._key(shown)
        if key is None:
            challenge = {"WWW-Authenticate": 'Bearer realm="loadmaster", error="invalid_token"'}
            return HTTPStatus.UNAUTHORIZED, "there is no such key", "Authorization", challenge
        if needed is Role.ADMIN and key.role is not Role.ADMIN:
            what = f"{scope['method']} {scope['path'][:200]}"
            return HTTPStatus.FORBIDDEN, f"{what} needs the role {needed}, and {key.name} has {key.role}", None, {}
        return None

    def _key(self, shown: bytes) -> Key | None:
        """The key that was shown. Takes as long whichever it is: digests are compared, and all of them."""
        digest = sha256(shown).digest()
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _shown(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key that a call shows: a Bearer token, else X-Api-Key, for a proxy may need Authorization for itself."""
    key = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip()
        elif name == b"x-api-key":
            key = value.strip()
    return key
