"""The API, to be read and tried: `/docs`, and what OpenAPI says of the doors that stand before every route."""

from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

from app.api.keys import HINT, role_needed
from app.api.refusals import refusals_written_out

router = APIRouter()

PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Loadmaster</title>
<link rel="stylesheet" href="/static/swagger-ui/swagger-ui.css">
<link rel="icon" href="/static/swagger-ui/favicon-32x32.png">
<div id="swagger-ui"></div>
<script src="/static/swagger-ui/swagger-ui-bundle.js"></script>
<script src="/static/swagger-ui/start.js"></script>
</html>
"""
"""All of it from our own files: it works offline, no script of another site runs here, and none stands in the page."""

SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": HINT},
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": HINT},
}


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The page; it reads /openapi.json."""
    return HTMLResponse(PAGE)


def describe_doors(app: FastAPI, *, locked: bool) -> None:
    """Have OpenAPI tell of every route what is asked for before it: where there are keys, which role it needs."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                _describe(operation, method.upper(), path, locked=locked)
        if locked:
            document["components"]["securitySchemes"] = SCHEMES
        return document

    app.openapi = openapi  # type: ignore[method-assign] # as FastAPI's own documentation has it


def _describe(operation: dict[str, Any], method: str, path: str, *, locked: bool) -> None:
    role = role_needed(method, path)
    if role is None:
        return
    for status, refusal in refusals_written_out(401, 403).items():
        operation["responses"].setdefault(status, refusal)
    if locked:
        operation["security"] = [{scheme: []} for scheme in SCHEMES]
        operation["x-role"] = role
