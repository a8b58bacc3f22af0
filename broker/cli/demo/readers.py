"""Three who want the prices: a queue worker, a stream reader, a webhook receiver, each a counting thread. Floor 7."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep, time
from typing import Any

from broker.cli.api import Api, name_path
from broker.cli.errors import FailedError
from broker.connectors.webhook.signing import parse_secret, verify
from broker.core.errors import BrokerError


@dataclass
class Worker:
    """Takes prices off a queue, works out the change since the last close of that ticker, acknowledges."""

    url: str
    queue: str
    pace: float
    taken: int = 0
    said: str = ""
    _closes: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until stopped, or until the daemon is gone."""
        api = Api(self.url)
        try:
            while not self._stop.is_set():
                self._batch(api, api.post(name_path("queues", self.queue, "receive"), max=5, wait="500ms")["messages"])
        except FailedError:
            pass
        finally:
            api.close()

    def _batch(self, api: Api, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            self._work(message["body"])
            sleep(self.pace)
        if messages:
            settles = [{"receipt": message["receipt"], "outcome": "ack"} for message in messages]
            api.post(name_path("queues", self.queue, "settle"), settles)

    def _work(self, row: dict[str, Any]) -> None:
        ticker, close = row["ticker"], float(row["close"])
        before = self._closes.get(ticker, close)
        self._closes[ticker] = close
        self.taken += 1
        self.said = f"{ticker} {row['date']} {close:.2f} ({(close / before - 1) * 100:+.1f} %)"

    def stop(self) -> None:
        """Finish what is in hand, take no more."""
        self._stop.set()


@dataclass
class Reader:
    """Follows the stream from its beginning and keeps only the last position."""

    url: str
    topic: str
    seen: int = 0
    position: str = ""

    def run(self) -> None:
        """Until the daemon is gone."""
        try:
            for event in Api(self.url).events("/v1/stream", topic=self.topic, **{"from": "earliest"}):
                self.seen, self.position = self.seen + (event.name == "message"), event.id
        except FailedError:
            pass


class Receiver:
    """A web server on loopback that checks each signature; it answers the very first request with 503, as servers
    do on a bad day, so that a retry is seen."""

    def __init__(self, secret: str) -> None:
        self.accepted: set[str] = set()
        self.false = 0
        self.refused = 0
        self._keys = [parse_secret(secret)]
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/prices"

    def run(self) -> None:
        """Until stopped."""
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        """Close the socket."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, headers: dict[str, str], body: bytes) -> int:
        """The HTTP status for one webhook."""
        with self._lock:
            if not self.accepted and not self.refused:
                self.refused += 1
                return 503
            try:
                told, at, signature = (headers.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature"))
                verify(self._keys, told, at, signature, body, time())
            except BrokerError:
                self.false += 1
                return 401
            self.accepted.add(headers["webhook-id"])
            return 204

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(receiver.answer(headers, body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
                """Stay silent: the screen shows the counts."""

        return Handler


def start(who: Worker | Reader | Receiver) -> threading.Thread:
    """Run it beside us; it does not keep the process alive."""
    thread = threading.Thread(target=who.run, daemon=True, name=type(who).__name__.lower())
    thread.start()
    return thread
