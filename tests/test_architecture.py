"""What holds for the whole tree: sizes, names, a status for every error, a README that leaves nothing out.

The directions of import are held by import-linter (`make check`).
"""

import ast
import re
from http import HTTPStatus
from pathlib import Path

import app
from app import errors
from app.api.errors import status_of
from app.config import Settings
from app.errors import LoadmasterError
from app.main import create_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

# Names that tell how code is used, or nothing, where the name of what it holds belongs.
SHAPELESS_MODULE = re.compile(r"(.*_)?(utils?|helpers?|services?|managers?|common|misc)")
SHAPELESS_CLASS = re.compile(r".*(Utils?|Helper|Service|Manager|Handler)")
MOCK = re.compile(r"unittest\.mock|import mock|MagicMock|mocker|monkeypatch\.set(attr|item)")


def sources(*folders: str) -> dict[Path, str]:
    """Return the Python modules below these folders: path in the repository to text."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in paths}


def below(error: type[LoadmasterError]) -> list[type[LoadmasterError]]:
    """Return every class of the service that descends from this one."""
    found = [deeper for child in error.__subclasses__() for deeper in (child, *below(child))]
    return [deeper for deeper in found if deeper.__module__.startswith("app.")]


def test_a_module_fits_in_one_sitting() -> None:
    """No module is longer than 400 lines."""
    lines = {path: len(source.splitlines()) for path, source in sources("app", "loadmaster").items()}

    assert [path for path, count in lines.items() if count > 400] == []


def test_a_module_is_named_after_what_it_holds() -> None:
    """No module or package is a drawer for what nobody thought about."""
    names = {part for path in sources("app", "loadmaster") for part in path.with_suffix("").parts}

    assert [name for name in names if SHAPELESS_MODULE.fullmatch(name)] == []


def test_a_class_is_named_after_what_it_is() -> None:
    """No class is a manager, a service, a helper or a handler."""
    nodes = [node for source in sources("app", "loadmaster").values() for node in ast.walk(ast.parse(source))]
    names = [node.name for node in nodes if isinstance(node, ast.ClassDef)]

    assert [name for name in names if SHAPELESS_CLASS.fullmatch(name)] == []


def test_every_error_has_a_status() -> None:
    """What Loadmaster raises on purpose reaches a client as an error, and never as a 500."""
    statuses = {error.__name__: status_of(error) for error in below(LoadmasterError)}

    assert [name for name, status in statuses.items() if not 400 <= status < 600] == []
    assert [name for name, status in statuses.items() if status == HTTPStatus.INTERNAL_SERVER_ERROR] == []


def test_the_error_tree_is_drawn() -> None:
    """The picture in the docstring of `app.errors` shows each class of the tree, and no other."""
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))

    assert drawn == {error.__name__ for error in below(LoadmasterError)}


def test_every_setting_is_in_the_readme() -> None:
    """Whatever can be set is in the README by the name of its environment variable."""
    settings = {f"LOADMASTER_{name.upper()}" for name in Settings.model_fields}

    assert settings - set(re.findall(r"LOADMASTER_[A-Z0-9_]+", README)) == set()


def test_every_route_is_in_the_readme(tmp_path: Path) -> None:
    """The routes table, of rows `| METHOD | path, path | what |`, has every route that OpenAPI shows."""
    rows = re.findall(r"^\| *`?([A-Z]+)`? *\|([^|]+)\|", README, flags=re.MULTILINE)
    documented = {(method, path) for method, paths in rows for path in re.findall(r"/[^\s,`?]*", paths)}
    service = create_app(Settings(models_dir=(tmp_path,), state_dir=tmp_path, devices="none"))
    served = {(method.upper(), path) for path, item in service.openapi()["paths"].items() for method in item}

    assert served - documented == set()


def test_the_changelog_names_the_version() -> None:
    """The newest entry of the changelog is of the version that the package says it is."""
    versions = re.findall(r"^## \[(\d[^\]]*)\]", CHANGELOG, flags=re.MULTILINE)

    assert versions[0] == app.__version__


def test_the_parts_in_tests_are_real() -> None:
    """No test replaces a part by a mock: what must fail in a test fails to order."""
    others = {path: source for path, source in sources("tests").items() if path.name != Path(__file__).name}

    assert [path for path, source in others.items() if MOCK.search(source)] == []
