"""A real daemon for the command's tests."""

from collections.abc import Iterator

import pytest

from broker.cli.demo.daemon import Daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    it = Daemon(tmp_path_factory.mktemp("daemon"))
    it.start()
    yield it
    it.stop()
