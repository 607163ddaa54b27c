"""Logging, configured in one place: what a line looks like, as text for people or as JSON for a log store.

A line is a line. Names of models and paths of requests are a stranger's text, so whatever could end a line, colour a
terminal or turn its direction is escaped.
"""

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any

from app.api.traffic import request_id
from app.cli.terminal import printable
from app.config import LogFormat, LogLevel


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO load of m succeeded … [request]`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback if there is one."""
        asked = request_id.get()
        line = f"{_time(record)} {record.levelname} {printable(_message(record))}{f' [{asked}]' if asked else ''}"
        return "\n    ".join([line, *(printable(text) for text in _traceback(self, record).splitlines())])


class JSONLines(logging.Formatter):
    """One object a line: time, level, logger, message, request_id, the facts of the event, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, in ASCII."""
        told: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if asked := request_id.get():
            told["request_id"] = asked
        told.update(getattr(record, "facts", {}))
        if traceback := _traceback(self, record):
            told["traceback"] = traceback
        return json.dumps(told)


LINES: dict[LogFormat, type[logging.Formatter]] = {LogFormat.TEXT: TextLines, LogFormat.JSON: JSONLines}


def configuration(form: LogFormat, level: LogLevel) -> dict[str, Any]:
    """For `logging.config.dictConfig`: all loggers, the server's own among them, to stderr, one line for each record.

    `level` is that of the service and of its server; of libraries only warnings are heard.
    """
    ours = {"level": level.upper()}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": LINES[form]}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"app": ours, "uvicorn": ours},
    }


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    return record.getMessage().rstrip("\n")  # with which some of the server's end


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Empty also where work was cut off: a stop does that to a reader that goes on for too long, and it is no fault."""
    error = record.exc_info
    return formatter.formatException(error) if error and not isinstance(error[1], asyncio.CancelledError) else ""
