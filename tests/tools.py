"""Programs that some tests need, beside Python: promtool, docker-compose, systemd-analyze."""

import os
import shutil

import pytest

REQUIRED = "TOOLS_REQUIRED"
"""Set where they must be there (`.ci/run` does): then a missing one is a failure."""


def tool(name: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None and os.environ.get(REQUIRED):
        pytest.fail(f"{name} is not installed, and {REQUIRED} says that it must be")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path
