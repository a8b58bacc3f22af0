"""Listening sockets and the words when there is none to be had."""

import socket
from pathlib import Path

import pytest

from broker.net import listener
from broker.net.listener import ListenError, listen_unix, open_sockets


def test_port_0_takes_a_free_one_that_can_be_connected_to() -> None:
    (sock,) = open_sockets("native", "127.0.0.1", 0)
    with sock, socket.create_connection(sock.getsockname(), timeout=5) as client:
        assert client.getpeername()[1] == sock.getsockname()[1] > 0


def test_tcp_and_unix_together(tmp_path: Path) -> None:
    tcp, unix = open_sockets("native", "127.0.0.1", 0, tmp_path / "s")
    with tcp, unix, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660


def test_a_taken_port_is_told_with_the_mend() -> None:
    (sock,) = open_sockets("native", "127.0.0.1", 0)
    port = sock.getsockname()[1]
    with (
        sock,
        pytest.raises(ListenError, match=rf"http: cannot listen on 127.0.0.1:{port}: the port is taken.*\[http\]"),
    ):
        open_sockets("http", "127.0.0.1", port)


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(ListenError, match=r"no such address; set host in \[native\]"):
        open_sockets("native", "192.0.2.1", 0)


def test_a_host_that_is_no_name_is_told() -> None:
    with pytest.raises(ListenError, match="no address of this machine"):
        open_sockets("native", "no such host", 0)


def test_when_the_unix_path_fails_the_tcp_port_is_free_again(tmp_path: Path) -> None:
    (probe,) = open_sockets("native", "127.0.0.1", 0)
    port = probe.getsockname()[1]
    probe.close()
    with pytest.raises(ListenError, match="set unix"):
        open_sockets("native", "127.0.0.1", port, tmp_path / "missing" / "s")
    (sock,) = open_sockets("native", "127.0.0.1", port)
    sock.close()


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    listen_unix("native", tmp_path / "s").close()
    sock = listen_unix("native", tmp_path / "s")
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    with listen_unix("native", tmp_path / "s"), pytest.raises(ListenError, match="another process listens"):
        listen_unix("native", tmp_path / "s")


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(ListenError, match="is no socket"):
        listen_unix("native", tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="longer than 107 bytes"):
        listen_unix("native", tmp_path / ("x" * 120))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6() -> None:
    (sock,) = open_sockets("native", "::1", 0)
    with sock:
        assert sock.getsockname()[0] == "::1"


def test_a_name_with_two_addresses_gets_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2")]
    monkeypatch.setattr(listener, "_resolve", lambda *_: two)
    first, second = open_sockets("native", "both", 0)
    with first, second:
        assert first.getsockname()[1] == second.getsockname()[1]
        assert first.getsockname()[0] != second.getsockname()[0]
