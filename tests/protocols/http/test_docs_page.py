"""The reference page in a real browser: its own policy lets its own script show the whole document."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.door import ask
from tests.system.served import Served

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; apt-get install chromium"),
]


def test_the_page_shows_every_operation(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ready()
        openapi = ask(served, "GET", "/openapi.json")[1]
        shown = subprocess.run(
            [
                *(
                    str(CHROMIUM),
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--enable-logging=stderr",
                    "--dump-dom",
                ),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"),
                f"http://{served.address('http')}/docs",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "Content Security Policy" not in shown.stderr
    assert "Uncaught" not in shown.stderr
    ids = set(re.findall(r'<article id="(\w+)"', shown.stdout))
    operations = {op["operationId"] for ops in openapi["paths"].values() for verb, op in ops.items() if verb != "head"}
    assert ids == operations
    assert "curl -sS -X POST" in shown.stdout
