"""`app.devices.cuda` on a double of CuPy, in a process of its own, where `import cupy` finds the double.

So its Python runs on every machine: what it locks, lends, counts and gives back, and what it does when a call fails. Of
GPUs this shows nothing; where there is one, `test_cuda.py` shows it.
"""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOUBLE = HERE / "pretended"


@pytest.mark.slow
def test_cuda_passes_on_the_double(tmp_path: Path) -> None:
    """The contract, the tests for a GPU, and failures to order, none skipped; a UUID needs a real driver."""
    tests = [HERE / "test_cuda.py", DOUBLE / "checks.py"]
    options = ["-p", "no:cacheprovider", f"--basetemp={tmp_path}", "-k", "not uuid"]
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own words
        [sys.executable, "-m", "pytest", *options, *tests],
        env={**os.environ, "PYTHONPATH": str(DOUBLE)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^=+ \d+ passed, 1 deselected in", done.stdout, re.MULTILINE), done.stdout


def has(found: object, names: tuple[str, ...]) -> bool:
    """Whether the attribute of the attribute is there."""
    *outer, last = names
    for name in outer:
        found = getattr(found, name)
    return hasattr(found, last)


@pytest.mark.parametrize("module", ["cuda", "cuda.runtime"])
def test_the_double_makes_nothing_up(module: str) -> None:
    """Whatever the double has in CuPy's place, CuPy has."""
    real = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    assert not str(real.__file__).startswith(str(DOUBLE))
    path = DOUBLE / "cupy" / ("cuda/__init__.py" if module == "cuda" else "cuda/runtime.py")
    defined = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = [node for node in defined if isinstance(node, ast.ClassDef)]
    names: list[tuple[str, ...]] = [
        (node.name,) for node in defined if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ]
    names += [(kind.name, node.name) for kind in kinds for node in kind.body if isinstance(node, ast.FunctionDef)]
    found = importlib.import_module(f"cupy.{module}")

    assert len(names) > 5
    assert [name for name in names if not name[-1].startswith("__") and not has(found, name)] == []
