"""postroom-js against the real daemon: in Node, and in Chromium with the example page."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.bench.child import free_port
from tests.system.served import Served

PACKAGE = Path(__file__).parents[2] / "clients" / "js"
OLDEST_NODE = 20


def _node() -> str | None:
    """Where node is, if it is new enough."""
    found = shutil.which("node")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    return found if int(version.lstrip("v").partition(".")[0]) >= OLDEST_NODE else None


NODE = _node()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHIN = 90.0

pytestmark = [pytest.mark.system, pytest.mark.skipif(NODE is None, reason="node 20 or later is not installed")]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def pages() -> Iterator[str]:
    """Where the package is served to browsers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(PACKAGE))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run(name: str, served: Served, **environ: str) -> None:
    """Run one file of node's tests; fails with what it said."""
    assert NODE is not None
    url = f"http://{served.address('http')}"
    done = subprocess.run(
        [NODE, "--no-warnings", "--experimental-websocket", "--test", f"test/{name}.test.js"],
        cwd=PACKAGE,
        env={**os.environ, "POSTROOM_HTTP_URL": url, **environ},
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail 0" in done.stdout


def test_in_node(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        run("client", served.ready())
        assert served.errors() == []


def test_with_tokens(tmp_path: Path) -> None:
    with Served(tmp_path, "[auth]\n") as served:
        served.ready()
        run("auth", served, POSTROOM_ADMIN_TOKEN=(tmp_path / "data" / "admin.token").read_text().strip())
        assert served.errors() == []


def test_over_kills(tmp_path: Path) -> None:
    assert NODE is not None
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    command = [NODE, "--no-warnings", "--experimental-websocket", "test/survivor.js", "500"]
    with Served(tmp_path, environ={"POSTROOM_HTTP__PORT": port}) as served:
        served.ready()
        survivor = subprocess.Popen(
            command, cwd=PACKAGE, env={**os.environ, "POSTROOM_HTTP_URL": url}, stdout=subprocess.PIPE, text=True
        )
        assert survivor.stdout is not None
        try:
            for mark in ("100", "300"):
                while (line := survivor.stdout.readline().strip()) != mark:
                    assert line, "it ended early; it says why above"
                served.signal(signal.SIGKILL)
                served.ended()
                served = Served(tmp_path, environ={"POSTROOM_HTTP__PORT": port}).ready()
            assert survivor.wait(WITHIN) == 0
        finally:
            survivor.kill()
            survivor.wait()
            survivor.stdout.close()
            served.__exit__()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.skipif(
    not (PACKAGE / "node_modules" / "playwright-core").is_dir(), reason="`npm install` was not run in clients/js"
)
def test_in_chromium(tmp_path: Path, pages: str) -> None:
    assert CHROMIUM is not None
    with Served(tmp_path, f'[http]\norigins = ["{pages}"]\n') as served:
        run("browser", served.ready(), POSTROOM_PAGES_URL=pages, POSTROOM_CHROMIUM=CHROMIUM)
        assert served.errors() == []
