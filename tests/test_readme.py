"""The README cannot lie: its links lead somewhere, and its commands run, in order, against a real daemon."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.demo.daemon import Daemon

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"<!-- run -->\n```(sh|python)\n(.*?)```", README, re.DOTALL)
LINKS = re.findall(r"\]\(([^)#:]+)\)", README)
WITHIN = 30
"""Seconds for one block."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    it = Daemon(tmp_path_factory.mktemp("readme"))
    it.start()
    yield it
    it.stop()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with `postroom` on its path."""
    folder = tmp_path_factory.mktemp("desk")
    command = folder / "bin" / "postroom"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m broker "$@"\n')
    command.chmod(0o755)
    return folder


def test_there_are_commands_to_run() -> None:
    assert len(BLOCKS) >= 5
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.system
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_commands_run(number: int, daemon: Daemon, desk: Path) -> None:
    kind, code = BLOCKS[number]
    if "mosquitto_sub" in code and shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_pub and mosquitto_sub are missing (mosquitto-clients)")
    places = {
        "127.0.0.1:7680": daemon.url.removeprefix("http://"),
        "127.0.0.1:7600": daemon.native,
        "-p 1883": f"-p {daemon.mqtt.rpartition(':')[2]}",
        "postroom-data/": f"{daemon.data}/",
    }
    for written, here in places.items():
        code = code.replace(written, here)
    path = os.pathsep.join([str(desk / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    environment = os.environ | {"PATH": path, "PYTHONPATH": modules, "POSTROOM_HTTP_URL": daemon.url}
    command = [sys.executable, "-c", code] if kind == "python" else ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True, timeout=WITHIN)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert '"status"' not in done.stdout, f"a problem document:\n{done.stdout}"
