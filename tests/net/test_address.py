"""Which addresses stay on this machine."""

import socket
from pathlib import Path

import pytest

from broker.net.address import address_of, host_port, is_loopback, stays_here


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_address_is_written_as_people_write_it(tmp_path: Path) -> None:
    assert host_port("::1", 7600) == "[::1]:7600"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "s"))
        assert address_of(tcp) == f"127.0.0.1:{tcp.getsockname()[1]}"
        assert address_of(unix) == f"unix:{tmp_path / 's'}"
        assert stays_here(tcp)
        assert stays_here(unix)
