"""Sockets handed over by the service manager."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from broker.net.activation import ActivationError, inherited_sockets

DOORS = ("native", "http")


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Two neighbouring descriptors: a listening socket and one that does not listen."""
    with socket.socket() as listening, socket.socket() as idle:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        base = 200
        os.dup2(listening.fileno(), base)
        os.dup2(idle.fileno(), base + 1)
        yield [base, base + 1]
        for fd in (base, base + 1):
            with contextlib.suppress(OSError):
                os.close(fd)


def environ(count: int, names: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}


def test_a_door_gets_its_socket(fds: list[int]) -> None:
    found = inherited_sockets(environ(1, "http"), DOORS, first=fds[0])
    (sock,) = found["http"]
    with sock, socket.create_connection(sock.getsockname(), timeout=5):
        assert set(found) == {"http"}
        assert not os.get_inheritable(sock.fileno())


def test_a_name_that_is_no_door_is_told(fds: list[int]) -> None:
    with pytest.raises(ActivationError, match="FileDescriptorName=native or FileDescriptorName=http"):
        inherited_sockets(environ(1, "smtp"), DOORS, first=fds[0])


def test_a_socket_that_does_not_listen_is_told(fds: list[int]) -> None:
    with pytest.raises(ActivationError, match="no listening stream"):
        inherited_sockets(environ(1, "http"), DOORS, first=fds[1])


@pytest.mark.parametrize(
    "given", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}]
)
def test_nothing_for_us(given: dict[str, str]) -> None:
    assert inherited_sockets(given, DOORS) == {}
