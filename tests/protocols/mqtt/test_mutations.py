"""A test that carries a statement's mark fails when the rule is broken: tried with a copy of the code."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.protocols.mqtt.mutations import DOOR, MUTATIONS, Mutation

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent.relative_to(ROOT)
COPIED = ("broker", "tests", "clients/python", "config", "pyproject.toml")
LONGEST = 120
"""Seconds for one test in a process of its own, on a machine that others use as well."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_what_keeps_it_stands_there_once_and_its_test_carries_its_mark(mutation: Mutation) -> None:
    assert (ROOT / DOOR / mutation.file).read_text().count(mutation.kept) == 1
    module, _, name = mutation.test.partition(".py::")
    test = getattr(import_module(f"tests.protocols.mqtt.{module}"), name)
    marks = [mark for mark in test.pytestmark if mark.name == "statement"]
    assert mutation.statement in [statement for mark in marks for statement in mark.args]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def tried(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """These tests in the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *(f"{HERE}/{test}" for test in tests)],
        cwd=copy,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )


@pytest.mark.proof
def test_the_copy_as_it_is_passes(copy: Path) -> None:
    done = tried(copy, *sorted({mutation.test for mutation in MUTATIONS}))
    assert done.returncode == 0, done.stdout


@pytest.mark.proof
@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_broken_it_fails(copy: Path, mutation: Mutation) -> None:
    file = copy / DOOR / mutation.file
    text = file.read_text()
    file.write_text(text.replace(mutation.kept, mutation.broken))
    try:
        done = tried(copy, mutation.test)
    finally:
        file.write_text(text)
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout
