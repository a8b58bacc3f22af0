"""The daemon as people and service managers run it: a process, its output, its signals, its end."""

import json
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.system.served import WITHIN, Served, handing_over

pytestmark = pytest.mark.system

QUEUE = '[queues.work]\ntopics = ["work/#"]\n'


def call(served: Served, method: str, path: str, body: bytes | None = None) -> Any:
    url = f"http://{served.address('http')}{path}"
    request = urllib.request.Request(url, body, {"Content-Type": "text/plain"}, method=method)
    with urllib.request.urlopen(request, timeout=WITHIN) as response:
        return json.loads(response.read() or b"null")


def publish(served: Served, body: bytes) -> int:
    return int(call(served, "POST", "/v1/topics/work/1/messages", body)["offset"])


def bodies(served: Served) -> list[str]:
    return [m["body"] for m in call(served, "GET", "/v1/topics/work/1/messages?from=earliest&limit=100")["messages"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_keeps_what_it_confirmed(tmp_path: Path, number: signal.Signals) -> None:
    with Served(tmp_path, QUEUE) as served:
        served.ready()
        assert [line.split()[1] for line in served.out] == ["native", "http", "mqtt", "ready"]
        publish(served, b"one")
        served.signal(number)
        assert served.ended() == 0
        assert [json.loads(line)["message"] for line in served.log][-2:] == ["draining", "stopped"]
    with Served(tmp_path, QUEUE) as served:
        assert bodies(served.ready()) == ["one"]


def test_kill_9_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    with Served(tmp_path, QUEUE) as served:
        offsets = [publish(served.ready(), str(i).encode()) for i in range(20)]
        served.signal(signal.SIGKILL)
        assert served.ended() == -signal.SIGKILL
    with Served(tmp_path, QUEUE) as served:
        assert bodies(served.ready()) == [str(i) for i in range(20)]
        assert publish(served, b"next") > offsets[-1]


def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.until(lambda: any('"recovered"' in line for line in served.log) or "postroom: ready" in served.out)
        served.signal(signal.SIGTERM)
        assert served.ended() == 0


def test_a_second_daemon_on_the_folder_is_refused(tmp_path: Path) -> None:
    with Served(tmp_path) as first:
        first.ready()
        with Served(tmp_path) as second:
            assert second.ended() == 1
            assert f"postroom: the daemon with pid {first.process.pid} has the data folder" in second.log[-1]
        publish(first, b"still here")


def test_a_configuration_with_problems_is_refused_by_key(tmp_path: Path) -> None:
    with Served(tmp_path, "[limits]\nmax_bodi = 5") as served:
        assert served.ended() == 1
        assert served.log[-1] == "  limits.max_bodi: unknown key; did you mean max_body?"


def test_a_taken_port_is_refused_with_the_mend(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        with Served(tmp_path, environ={"POSTROOM_HTTP__PORT": taken}) as served:
            assert served.ended() == 1
            assert f"http: cannot listen on 127.0.0.1:{taken}: the port is taken" in served.log[-1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database" * 1000, "file is not a database; it is no database of Postroom's: name another data folder"),
        (b"SQLite format 3\0" + bytes(4080), "name another data folder"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused_with_the_mend_alone(tmp_path: Path, content: bytes, said: str) -> None:
    """Nothing was written, so that nothing is said of a disk that refused to."""
    with Served(tmp_path) as served:
        served.ready()
        file = next(served.config.parent.rglob("postroom.db"))
        served.signal(signal.SIGTERM)
        assert served.ended() == 0
    file.write_bytes(content)
    with Served(tmp_path) as served:
        assert served.ended() == 1
        assert served.log[-1].startswith(f"postroom: {file}")
        assert said in served.log[-1]
    assert file.read_bytes() == content


def test_sighup_takes_up_the_file(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ready()
        served.config.write_text(QUEUE + "[http]\nkeepalive = 5\n")
        served.signal(signal.SIGHUP)
        served.until(lambda: any("configuration taken up" in line for line in served.log))
        (told,) = [json.loads(line) for line in served.log if "configuration taken up" in line]
        assert (told["changed"], told["needs_restart"]) == (["http", "queues"], ["http"])
        assert call(served, "GET", "/v1/subscriptions/work")["topics"] == ["work/#"]
        served.config.write_text("[queues.work]\ntopics = 5")
        served.signal(signal.SIGHUP)
        served.until(lambda: any("nothing was changed" in line for line in served.log))
        served.signal(signal.SIGTERM)
        assert served.ended() == 0


def test_sockets_of_the_service_manager_are_taken(tmp_path: Path) -> None:
    """Two doors by name, as systemd hands them over: descriptors from 3, LISTEN_PID is the daemon's."""
    with socket.create_server(("127.0.0.1", 0)) as http, socket.socket(socket.AF_UNIX) as native:
        native.bind(str(tmp_path / "native"))
        native.listen()
        with Served(tmp_path, **handing_over(http=http, native=native)) as served:
            served.ready()
            assert served.address("http") == f"127.0.0.1:{http.getsockname()[1]}"
            assert served.address("native") == f"unix:{tmp_path / 'native'}"
            publish(served, b"one")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "native"))
            served.signal(signal.SIGTERM)
            assert served.ended() == 0
        with socket.create_connection(http.getsockname(), timeout=WITHIN):
            pass  # the manager's socket still takes connections: they wait for the next daemon


def test_a_unix_socket(tmp_path: Path) -> None:
    with Served(tmp_path, f'[native]\ntcp = false\nunix = "{tmp_path}/n"') as served:
        assert served.ready().address("native") == f"unix:{tmp_path}/n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/n")
