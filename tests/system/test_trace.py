"""One trace from the publisher to all whom its message reaches, through the real daemon and its kill -9."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from postroom_client.sync import connect

from tests.system.door import ask
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = {"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE"}


class Receiver(HTTPServer):
    """Whom webhooks are sent to: keeps the headers."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Taker)


class Taker(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def trace_of(headers: dict[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in TRACE if name in headers}


def test_a_trace_reaches_workers_webhooks_streams_and_dead_letters(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "in").mkdir()
    config = f"""
        [log]
        access = "all"
        [webhooks]
        allow = ["127.0.0.0/8"]
        [queues.hook]
        topics = ["orders"]
        webhook = {{ url = "http://127.0.0.1:{receiver.server_port}/" }}
        [queues.work]
        topics = ["orders"]
        [[drop]]
        path = "{tmp_path}/in"
        topic = "files"
        poll = "100ms"
        stable_for = "0s"
        stable_checks = 1
    """
    with Served(tmp_path, config) as served:
        served.ready()
        headers = {**TRACE, "X-Request-Id": "order-7"}
        status, _, answered = ask(served, "POST", "/v1/topics/orders/messages", b"x", headers)
        assert (status, answered["Postroom-Request-Id"]) == (201, "order-7")
        (message,) = ask(served, "GET", "/v1/topics/orders/messages")[1]["messages"]
        assert trace_of(message["headers"]) == TRACE
        deadline = time.monotonic() + WITHIN
        while not receiver.seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert trace_of(receiver.seen[0]) == TRACE
        with connect(f"postroom://{served.address('native')}") as client:
            deliveries = client.consume("work")
            delivered = deliveries.receive(WITHIN)
            assert trace_of(delivered.headers) == TRACE
            delivered.settle("reject", error="not today")
        (tmp_path / "in" / "rows.csv").write_text("a\n1\n2\n")
        served.until(lambda: any("file published" in line for line in served.log))
        lines = [json.loads(line) for line in served.log if '"broker.access"' in line]
        (line,) = [line for line in lines if line.get("request_id") == "order-7"]
        assert (line["method"], line["path"], line["status"], line["trace"]) == (
            "POST",
            "/v1/topics/orders/messages",
            201,
            PARENT[3:35],
        )
        assert any(line["door"] == "native" and line["message"] == "connection" for line in lines)
        served.signal(signal.SIGKILL)
        served.ended()
    with Served(tmp_path, config) as served:
        served.ready()
        (dead,) = ask(served, "GET", "/v1/topics/$dead/work/messages")[1]["messages"]
        assert trace_of(dead["headers"]) == TRACE
        rows = ask(served, "GET", "/v1/topics/files/messages")[1]["messages"]
        parents = {row["headers"]["traceparent"] for row in rows}
        assert len(rows) == 2
        assert len(parents) == 1  # the rows of a file are one trace

        def done() -> list[str]:
            entries = ask(served, "GET", "/v1/topics/$sys/audit/messages")[1]["messages"]
            return [entry["body"]["verb"] for entry in entries]

        served.until(lambda: len(done()) == 4)  # an entry follows its deed
        assert done() == ["subscription.put"] * 2 + ["daemon.start"] * 2
