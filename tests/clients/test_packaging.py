"""The client stands alone: the standard library, msgpack, and for the plugin pytest; nothing of the daemon."""

import ast
import sys
import tomllib
from pathlib import Path

import postroom_client

CLIENT = Path(__file__).parents[2] / "clients" / "python"


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add((node.module or "").partition(".")[0])
    return names - sys.stdlib_module_names


def test_imports() -> None:
    modules = list((CLIENT / "postroom_client").glob("*.py"))
    assert len(modules) > 20
    for path in modules:
        allowed = {"postroom_client", "msgpack"} | ({"pytest"} if path.stem == "pytest_plugin" else set())
        assert imported(path) <= allowed, path


def test_the_package_says_what_it_is() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert [d.partition(">")[0] for d in project["dependencies"]] == ["msgpack"]
    assert project["entry-points"]["pytest11"] == {"postroom": "postroom_client.pytest_plugin"}
    assert (CLIENT / "postroom_client" / "py.typed").exists()
    assert all(hasattr(postroom_client, name) for name in postroom_client.__all__)
