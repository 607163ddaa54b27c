"""What a route may answer instead, for OpenAPI: one sentence for each status."""

from typing import Any, Final

from app.api.schemas import ErrorBody, ErrorText

MEANING: Final = {
    400: "The body is not JSON.",
    401: "No key, or a wrong one, where the service has keys.",
    403: "The key's role is not enough, or the service is not called by a name of its own.",
    404: "There is no such model, tensor, metadata key or job.",
    409: "Another change is under way, the model is not loaded, the job was cancelled, or the file has changed.",
    412: "`If-Match` names another generation.",
    413: "The body is too large.",
    416: "The range holds none of the bytes.",
    422: "A value that cannot be, or a model that cannot be used.",
    429: "There are too many listeners, or too many jobs that have not ended.",
    503: "A device or the host failed, or the service is starting or stopping.",
    507: "It does not fit; the numbers say by how much, and what would.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these statuses."""
    return {status: {"model": ErrorBody, "description": MEANING[status]} for status in statuses}


def refusals_in_words(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route of a dialect whose errors are sentences; the doors before it speak that dialect, too."""
    return {status: {"model": ErrorText, "description": MEANING[status]} for status in (401, 403, *statuses)}


def refusals_written_out(*statuses: int) -> dict[str, dict[str, Any]]:
    """The same as they stand in OpenAPI's document, for whoever adds to one that is there already."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}
    return {str(status): {"content": content, "description": MEANING[status]} for status in statuses}
