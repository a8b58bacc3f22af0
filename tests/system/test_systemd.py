"""What systemd and the daemon expect of one another: the protocol against a socket of the test's own, the unit by
systemd's own judgement."""

import configparser
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.config import DOORS
from broker.protocols.mqtt.options import DEFAULT_PORT, MqttOptions
from tests.system.served import WITHIN, Served, handing_over

pytestmark = pytest.mark.system

UNIT = Path(__file__).parents[2] / "systemd" / "postroom.service"
SOCKET = UNIT.with_name("postroom-mqtt.socket")
EXPOSURE = "20"
"""Ten times the highest exposure level that is accepted."""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(WITHIN)
        yield listening


def heard_until(manager: socket.socket, line: str) -> list[str]:
    """Everything up to this line."""
    lines: list[str] = []
    while line not in lines:
        lines += manager.recv(4096).decode().split("\n")
    return lines


def falls_silent(manager: socket.socket, seconds: float) -> bool:
    """Is what was under way followed by silence for so long?"""
    manager.settimeout(seconds)
    try:
        for _ in range(100):
            manager.recv(4096)
    except TimeoutError:
        return True
    finally:
        manager.settimeout(WITHIN)
    return False


def test_the_manager_hears_ready_alive_reloading_and_stopping(tmp_path: Path, manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    with Served(tmp_path, environ=environ) as served:
        started = heard_until(manager, "READY=1")
        assert started[0] == "STATUS=recovering the log"
        served.ready()
        with socket.create_connection(("127.0.0.1", int(served.address("native").split(":")[1])), timeout=WITHIN):
            pass  # ready means that the listeners take connections
        assert f"MAINPID={served.process.pid}" in started
        heard_until(manager, "WATCHDOG=1")
        served.signal(signal.SIGHUP)
        assert "RELOADING=1" in heard_until(manager, "READY=1")
        served.signal(signal.SIGTERM)
        assert heard_until(manager, "STOPPING=1")[-3:-1] == ["STOPPING=1", "STATUS=draining"]
        assert served.ended() == 0


def test_a_daemon_that_hangs_does_not_feed_the_watchdog(tmp_path: Path, manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    with Served(tmp_path, environ=environ) as served:
        heard_until(manager, "WATCHDOG=1")
        served.signal(signal.SIGSTOP)
        assert falls_silent(manager, 1.0)
        served.signal(signal.SIGCONT)
        heard_until(manager, "WATCHDOG=1")


def test_a_watchdog_for_another_process_is_not_fed(tmp_path: Path, manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000", "WATCHDOG_PID": "1"}
    with Served(tmp_path, environ=environ) as served:
        heard_until(manager, "READY=1")
        served.signal(signal.SIGTERM)
        assert "WATCHDOG=1" not in heard_until(manager, "STOPPING=1")


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@needs_systemd
def test_the_unit_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(UNIT)]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    level = re.search(r"Overall exposure level for postroom.service: (\d+\.\d+)", judged.stdout)
    assert level
    assert float(level[1]) <= 2.0


@needs_systemd
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    copies = [tmp_path / UNIT.name, tmp_path / SOCKET.name]
    copies[0].write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    copies[1].write_text(SOCKET.read_text())
    command = ["systemd-analyze", "verify", *map(str, copies)]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (judged.returncode, judged.stderr) == (0, "")


def section(unit: Path, name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    return parser[name]


def test_the_unit_is_what_the_daemon_expects() -> None:
    service = section(UNIT, "Service")
    assert service["Type"] == "notify"
    assert service["Restart"] == "on-failure"
    assert service["StateDirectory"] == "postroom"
    assert service["DynamicUser"] == "yes"
    assert "LoadCredential" in service
    assert float(service["WatchdogSec"]) >= 10
    assert service["ExecStart"].split()[1:] == ["serve", "--config", "/etc/postroom/postroom.toml"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_credentials_of_systemd_are_used(tmp_path: Path) -> None:
    (tmp_path / "level").write_text("debug\n")
    with Served(tmp_path, '[log]\nlevel = "${credential:level}"', {"CREDENTIALS_DIRECTORY": str(tmp_path)}) as served:
        served.ready()


# The MQTT door as a socket of systemd's


CONNECT, CONNACK = bytes.fromhex("100d00044d51545404020000000163"), bytes.fromhex("20020000")
activating = pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed")


def test_the_socket_unit_is_what_the_daemon_expects() -> None:
    unit = section(SOCKET, "Socket")
    assert unit["FileDescriptorName"] in DOORS
    assert unit["Service"] == UNIT.name
    assert unit["ListenStream"] == f"127.0.0.1:{DEFAULT_PORT}"
    assert unit["Accept"] == "no"
    names = MqttOptions.model_fields
    assert (names["host"].default, names["port"].default) == ("127.0.0.1", DEFAULT_PORT)


def test_devices_that_connect_during_a_restart_wait_for_the_next_daemon(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = listening.getsockname()
        with Served(tmp_path, **handing_over(mqtt=listening)) as served:
            assert served.ready().address("mqtt") == f"127.0.0.1:{where[1]}"
            assert greeted(where) == CONNACK
            served.signal(signal.SIGTERM)
            assert served.ended() == 0
        with socket.create_connection(where, timeout=WITHIN) as waiting:
            waiting.sendall(CONNECT)
            with Served(tmp_path, **handing_over(mqtt=listening)) as served:
                served.ready()
                assert waiting.recv(4) == CONNACK


@activating
def test_systemds_own_program_hands_it_over(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = free.getsockname()
    settings = ("POSTROOM_HTTP__PORT=0", "POSTROOM_NATIVE__PORT=0", "POSTROOM_MQTT__PORT=0")
    prefix = ["systemd-socket-activate", f"--listen=127.0.0.1:{where[1]}", "--fdname=mqtt"]
    with Served(tmp_path, prefix=[*prefix, *(f"--setenv={setting}" for setting in settings)]) as served:
        served.until(lambda: any(line.startswith("Listening on") for line in served.log))
        assert not served.out  # nobody has come yet
        assert greeted(where) == CONNACK
        assert served.ready().address("mqtt") == f"127.0.0.1:{where[1]}"
        served.signal(signal.SIGTERM)
        assert served.ended() == 0


def greeted(where: tuple[str, int]) -> bytes:
    """What a client of MQTT is answered there."""
    with socket.create_connection(where, timeout=WITHIN) as client:
        client.sendall(CONNECT)
        return client.recv(4)
