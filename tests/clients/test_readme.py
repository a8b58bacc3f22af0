"""The README's examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from postroom_client.daemon import Daemon

CLIENT = Path(__file__).parents[2] / "clients" / "python"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", (CLIENT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
EXPECTED = ["on disk at", "dear reader 1", "", "prices/acme {'close': 12.5}", "{'n': 1}"]

pytestmark = pytest.mark.system


@pytest.mark.parametrize(("example", "says"), list(zip(EXAMPLES, EXPECTED, strict=False)))
def test_example(example: str, says: str, postroom_server: Daemon) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CLIENT), "POSTROOM_URL": postroom_server.url}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


def test_the_last_example_is_a_test(tmp_path: Path) -> None:
    assert len(EXAMPLES) == len(EXPECTED) + 1
    (tmp_path / "test_example.py").write_text(EXAMPLES[-1])
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    path = os.pathsep.join((str(CLIENT), str(CLIENT.parents[1])))
    # The plugins by name, once, whether or not the client is installed here and brings its own along.
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "postroom_client.pytest_plugin")
    command = [sys.executable, "-m", "pytest", *plugins, "-q", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
