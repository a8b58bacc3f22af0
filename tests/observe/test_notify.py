"""sd_notify against a socket of the test's own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.observe.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "notify"))
        s.settimeout(5)
        yield s


def test_what_is_said_in_the_life_of_a_daemon(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()}, monotonic=lambda: 5_000_999)
    notifier.starting("recovering", extend_seconds=1.5)
    notifier.ready("2 listeners")
    notifier.alive()
    notifier.reloading()
    notifier.status("two\nlines")
    notifier.stopping("draining", 40)
    assert [manager.recv(4096).decode().split("\n") for _ in range(6)] == [
        ["STATUS=recovering", "EXTEND_TIMEOUT_USEC=1500000"],
        ["READY=1", "STATUS=2 listeners", f"MAINPID={os.getpid()}"],
        ["WATCHDOG=1"],
        ["RELOADING=1", "MONOTONIC_USEC=5000"],
        ["STATUS=two lines"],
        ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=40000000"],
    ]


def test_an_abstract_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(f"\0{tmp_path}")
        s.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{tmp_path}"}).alive()
        assert s.recv(100) == b"WATCHDOG=1"


def test_without_a_manager_nothing_happens() -> None:
    Notifier({}).ready("fine")


def test_a_manager_that_has_gone_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.alive()
    notifier.alive()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_whether_the_manager_watches(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environ).watchdog_seconds == seconds
