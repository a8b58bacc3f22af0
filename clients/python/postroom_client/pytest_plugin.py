"""Fixtures that give tests a real daemon, not an imitation. Installed with the client; nothing runs until asked for.

`postroom_server`: one daemon per test session, started when first wanted, with `url`, `http_url`, `stop`, `kill`,
`start`. `postroom`: a connected synchronous client to it. Asynchronous tests do
`async with connect(postroom_server.url)`.
"""

from collections.abc import Generator

import pytest

from postroom_client import sync
from postroom_client.daemon import Daemon


@pytest.fixture(scope="session")
def postroom_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Daemon, None, None]:
    """A running daemon with its data in a temporary folder, shared by all tests of the session."""
    with Daemon(tmp_path_factory.mktemp("postroom") / "data") as daemon:
        yield daemon


@pytest.fixture
def postroom(postroom_server: Daemon) -> Generator[sync.Client, None, None]:
    """A client of that daemon, closed after the test."""
    with sync.connect(postroom_server.url) as client:
        yield client
