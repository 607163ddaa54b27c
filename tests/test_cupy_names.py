"""Every name of CuPy that we use exists in the CuPy that is installed; imports it, which needs no GPU."""

import ast
import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[1] / "app" / "devices" / "cuda.py"

# What is used on instances, whose class the syntax tree does not tell.
INSTANCE_NAMES = {
    "Device": ["use"],
    "Event": ["record", "synchronize"],
    "Memory": ["ptr"],
    "Stream": ["synchronize"],
}


def cupy() -> ModuleType:
    """CuPy itself; skips where it is not installed, unless CUPY_REQUIRED says that it has to be, as in CI."""
    if os.environ.get("CUPY_REQUIRED"):
        return importlib.import_module("cupy")
    module: ModuleType = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    return module


def aliases(tree: ast.Module) -> dict[str, str]:
    """The names by which the module knows parts of CuPy, and which parts they are."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "cupy":
                    known[alias.asname or "cupy"] = alias.name if alias.asname else "cupy"
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cupy":
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` as it is written; None for anything but names and attributes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return None


def names_used(source: str) -> set[str]:
    """Every dotted name of CuPy in the source, in full."""
    tree = ast.parse(source)
    known = aliases(tree)
    used = set(known.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and (name := dotted(node)):
            first, _, rest = name.partition(".")
            if first in known:
                used.add(f"{known[first]}.{rest}" if rest else known[first])
    return used


def resolves(name: str) -> bool:
    """Whether the name, module or attribute, is there."""
    first, *rest = name.split(".")
    found: object = importlib.import_module(first)
    for number, part in enumerate(rest, start=1):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join([first, *rest[:number]]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


def test_the_names_are_found() -> None:
    """The search sees plain imports, aliases and names from CuPy's modules."""
    source = (
        "import cupy, numpy\nimport cupy.cuda as c\nfrom cupy.cuda import runtime as r\n"
        "cupy.ndarray.data; c.Stream(); r.memcpyAsync(r.x.ptr, numpy.zeros)"
    )

    assert names_used(source) >= {
        "cupy.ndarray.data",
        "cupy.cuda.Stream",
        "cupy.cuda.runtime.memcpyAsync",
        "cupy.cuda.runtime.x.ptr",
    }
    assert not any(name.startswith("numpy") for name in names_used(source))


def test_every_name_of_cupy_exists() -> None:
    """All that `app.devices.cuda` takes from CuPy is there, by its name."""
    cupy()
    used = names_used(SOURCE.read_text(encoding="utf-8"))

    assert {"cupy.cuda.Memory", "cupy.cuda.runtime.memcpyAsync"} <= used
    assert [name for name in sorted(used) if not resolves(name)] == []


def test_every_name_on_instances_exists() -> None:
    """So is what it uses of streams, events, memory and devices."""
    cuda = cupy().cuda

    assert [
        f"{kind}.{name}"
        for kind, names in INSTANCE_NAMES.items()
        for name in names
        if not hasattr(getattr(cuda, kind), name)
    ] == []
    assert hasattr(cuda.Stream.null, "ptr")  # set when a stream is made
    assert cuda.runtime.CUDARuntimeError(2).status == 2


def test_a_missing_name_would_be_found() -> None:
    """A name that CuPy does not have does not resolve."""
    cupy()

    assert not resolves("cupy.cuda.runtime.noSuchCall")
    assert resolves("cupy.cuda.runtime")
