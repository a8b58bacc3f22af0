"""Webhooks that never answer, endpoints that lie, folders that are none: each is told of where operators look, and
harms nobody else."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.system.door import ask, bodies, publish, status
from tests.system.neighbour import a_neighbour
from tests.system.served import Served

pytestmark = pytest.mark.system


@contextmanager
def a_silent_endpoint() -> Iterator[str]:
    """Takes connections (the system does) and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def an_endpoint(answer: bytes) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the bodies that it was sent; it answers with these bytes."""
    taken: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "{}:{}".format(*server.server_address), taken
        finally:
            server.shutdown()
            thread.join()


GOOD = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def webhooks(**addresses: str) -> str:
    queues = [
        f'[queues.{name}]\ntopics = ["work/#"]\nwebhook = {{ url = "http://{address}/", timeout = "300ms" }}\n'
        f'retry = {{ initial = "100ms", cap = "200ms" }}\n'
        for name, address in addresses.items()
    ]
    return "\n".join(['grace = "3s"\n[webhooks]\nallow = ["127.0.0.0/8"]', *queues])


def webhook(served: Served, name: str) -> Any:
    """What operators are told of it, once the sender has found it."""
    served.until(lambda: name in status(served)["webhooks"])
    return status(served)["webhooks"][name]


def test_a_webhook_that_never_answers(tmp_path: Path) -> None:
    """It is told of, the others get all they should, a stop does not wait for it, and its messages stay."""
    with a_silent_endpoint() as silent, an_endpoint(GOOD) as (good, taken):
        config = webhooks(silent=silent, good=good)
        with Served(tmp_path, config) as served, a_neighbour(served.ready()) as neighbour:
            said = [str(i) for i in range(30)]
            for text in said:
                assert publish(served, "work/1", text.encode())[0] == 201
            served.until(lambda: len(taken) >= len(said))
            served.until(lambda: webhook(served, "silent")["state"] == "failing")
            assert webhook(served, "silent")["error"] == "no answer within 0.3 s"
            neighbour.is_served()
        assert sorted(taken, key=int) == said
        with Served(tmp_path, config) as served:
            served.ready().until(lambda: webhook(served, "silent")["in_flight"])
            served.signal(signal.SIGTERM)
            assert served.ended() == 0
        with Served(tmp_path, config) as served:
            lags = {i["name"]: i["lag"] for i in ask(served.ready(), "GET", "/v1/subscriptions")[1]["subscriptions"]}
            assert (lags["silent"], lags["good"]) == (30, 0)


NONSENSE = {
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe/\r\nContent-Length: 0\r\n\r\n", "redirects are not"),
    "bytes": (b"HTTP/1.1 500 \xff\xfe\r\nContent-Length: 2\r\n\r\n\xff\xfe", "500"),
    "babble": (b"\x00\x01 this is not HTTP\r\n\r\n", "no valid answer"),
    "endless": (b"HTTP/1.1 500 Oh\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000, "500"),
    "late": (b"HTTP/1.1 503 Wait\r\nRetry-After: " + b"9" * 50 + b"\r\nContent-Length: 0\r\n\r\n", "503"),
    "gone": (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", "410"),
    "mute": (b"", "no valid answer"),
}


def test_endpoints_that_answer_nonsense(tmp_path: Path) -> None:
    """Each is told of by what it answered; the one beside them gets all its messages."""
    with ExitStack() as endpoints:
        address = {name: endpoints.enter_context(an_endpoint(answer))[0] for name, (answer, _) in NONSENSE.items()}
        address["good"], taken = endpoints.enter_context(an_endpoint(GOOD))
        served = endpoints.enter_context(Served(tmp_path, webhooks(**address)))
        endpoints.enter_context(a_neighbour(served.ready()))
        assert publish(served, "work/1", b"one")[0] == 201
        for name, (_, error) in NONSENSE.items():
            served.until(lambda: error in webhook(served, name)["error"])  # noqa: B023
        assert publish(served, "work/1", b"two")[0] == 201
        served.until(lambda: taken == ["one", "two"])
        assert not served.errors()


def test_a_webhook_to_where_it_may_not_go(tmp_path: Path) -> None:
    """Loopback is closed to webhooks unless the operator opens it."""
    config = '[queues.hook]\ntopics = ["work/#"]\nwebhook = { url = "http://127.0.0.1:9/" }'
    with Served(tmp_path, config) as served, a_neighbour(served.ready()):
        assert publish(served, "work/1", b"one")[0] == 201
        served.until(lambda: "webhooks.allow" in webhook(served, "hook")["error"])


DROP = """
[[drop]]
path = "{folder}"
topic = "dropped/1"
name = "bad"
poll = "50ms"
stable_checks = 1
stable_for = 0
[[drop]]
path = "{folder}-good"
topic = "dropped/2"
name = "good"
poll = "50ms"
stable_checks = 1
stable_for = 0
"""


def drop(served: Served, name: str) -> Any:
    return status(served)["drop"][name]


def test_a_drop_folder_that_is_a_file(tmp_path: Path) -> None:
    folder, good = tmp_path / "in", tmp_path / "in-good"
    folder.write_text("not a folder")
    good.mkdir()
    with Served(tmp_path, DROP.format(folder=folder)) as served, a_neighbour(served.ready()) as neighbour:
        served.until(lambda: drop(served, "bad")["state"] == "failing")
        assert "is no folder; create it, or mend path" in drop(served, "bad")["reason"]
        (good / "a.csv").write_text("n\n1\n")
        served.until(lambda: bodies(served, "dropped/2") == [{"n": "1"}])
        neighbour.is_served()
        folder.unlink()
        folder.mkdir()
        (folder / "b.csv").write_text("n\n2\n")
        served.until(lambda: bodies(served, "dropped/1"))
        served.until(lambda: drop(served, "bad")["state"] == "ok")


NO_TABLES = {
    "short": (b"n,m\n1,2\n1\n", "line 3"),
    "latin": (b"n\n\xff\xfe\n", "line 2"),
    "large": (b"n\n" + b"x" * (2 << 20), "line 2"),
    "open": (b'n\n"never closed\n', "line 2"),
}


def test_dropped_files_that_are_no_tables(tmp_path: Path) -> None:
    """They move to `failed/`, each with a note that says what to do; nothing of them is published; others are."""
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "in-good").mkdir()
    for name, (content, _) in NO_TABLES.items():
        (folder / f"{name}.csv").write_bytes(content)
    (folder / "z.csv").write_text("n\n2\n")
    with Served(tmp_path, DROP.format(folder=folder)) as served, a_neighbour(served.ready()):
        served.until((folder / "done" / "z.csv").exists)
        for name, (content, reason) in NO_TABLES.items():
            assert (folder / "failed" / f"{name}.csv").read_bytes() == content
            note = json.loads((folder / "failed" / f"{name}.csv.err.json").read_text())
            assert reason in note["reason"]
            assert note["what_to_do"]
        assert bodies(served, "dropped/1") == [{"n": "2"}]
