"""The HTTP door from the other side: one kept-alive connection, plain requests, answers as JSON values. Floor 7.

It decides how failures of the transport and problem documents become one sentence with a next step; what a verb asks
for and how it shows the answer is the verb's. The standard library's client, because it imports in milliseconds.
"""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode, urlsplit

from broker.cli.credential import given_token
from broker.cli.errors import FailedError, RefusedError, UnreachableError

TIMEOUT = 30.0
"""Seconds without an answer after which a plain request is given up."""

SILENCE = 90.0
"""Seconds without even a heartbeat after which an event stream counts as broken."""


class Event(NamedTuple):
    """One server-sent event: its name (`message` when it has none), the last id, the data as JSON."""

    name: str
    id: str
    data: dict[str, Any]


class Api:
    """A daemon at `url`; close it, or use it in `with`. Not for threads: each takes its own."""

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FailedError(f"{url!r} is no HTTP address; write http://127.0.0.1:7680 in --url or POSTROOM_HTTP_URL.")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.timeout = timeout
        self._parts = parts
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, path: str, **query: object) -> Any:
        """The JSON answer. Raises RefusedError, UnreachableError."""
        return self.request("GET", path, query=query)

    def pages(self, path: str, member: str, **query: object) -> Iterator[dict[str, Any]]:
        """All of a list that the daemon gives out in pages. Raises RefusedError, UnreachableError."""
        after = None
        while True:
            page = self.get(path, after=after, **query)
            yield from page[member]
            after = page["next"]
            if after is None:
                return

    def post(self, path: str, body: Any = None, **query: object) -> Any:
        """Send a JSON value, or nothing. Raises RefusedError, UnreachableError."""
        if body is None:
            return self.request("POST", path, query=query)
        return self.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"}, query)

    def put(self, path: str, body: Any) -> Any:
        """Send a JSON value. Raises RefusedError, UnreachableError."""
        return self.request("PUT", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def delete(self, path: str, **query: object) -> Any:
        """Raises RefusedError, UnreachableError."""
        return self.request("DELETE", path, query=query)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> Any:
        """One request and its whole answer; None for an empty one. Raises RefusedError, UnreachableError."""
        response = self._send(method, self._target(path, query), body, headers or {})
        try:
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        if response.status >= 400:
            raise refusal(response.status, content)
        return json.loads(content) if content.strip() else None

    def events(self, path: str, *, last: str | None = None, **query: object) -> Iterator[Event]:
        """Server-sent events until the server ends. `last` resumes after that id. The connection is this iterator's
        own. Raises RefusedError at once, UnreachableError whenever the connection breaks or falls silent."""
        own = Api(self.url, timeout=self.timeout)
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        try:
            wire = own._open()
            with own._exchange("GET", own._target(path, query), None, headers) as response:
                if response.status >= 400:
                    raise refusal(response.status, response.read())
                wire.settimeout(SILENCE)
                yield from _parse_events(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        finally:
            own.close()

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        fresh = self._connection is None
        try:
            return self._exchange(method, target, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A kept-alive connection that the server closed meanwhile; a POST may have arrived, so it is not repeated.
            if not fresh and method == "GET":
                return self._send(method, target, body, headers)
            raise self._lost(error) from error

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = self._connect()
        token = given_token()
        sent = {**headers, "Authorization": f"Bearer {token}"} if token else headers
        self._connection.request(method, target, body=body, headers={n: v.encode() for n, v in sent.items()})
        return self._connection.getresponse()

    def _open(self) -> socket.socket:
        self._connection = self._connect()
        self._connection.connect()
        return self._connection.sock

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=_trust())
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    def _target(self, path: str, query: Mapping[str, object] | None) -> str:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._parts.path.rstrip("/") + path + (f"?{urlencode(given, doseq=True)}" if given else "")

    def _lost(self, error: Exception) -> UnreachableError:
        self.close()
        if isinstance(error, ssl.SSLError):
            return _no_tls(self.url, error)
        if isinstance(error, ConnectionRefusedError):
            return UnreachableError(f"No daemon answers at {self.url}.", "postroom serve")
        if isinstance(error, socket.gaierror):
            name = self._parts.hostname
            return UnreachableError(
                f"The host name {name} cannot be found: {error.strerror}.", "another address in --url"
            )
        if isinstance(error, TimeoutError):
            return UnreachableError(
                f"The daemon at {self.url} did not answer within {self.timeout:g} s.", "postroom status"
            )
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
            return UnreachableError(
                f"What answers at {self.url} is no HTTP; the daemon prints its HTTP address when it starts.",
                "postroom status --url http://127.0.0.1:7680",
            )
        if self._parts.scheme == "https":
            return _no_tls(self.url, error)
        return UnreachableError(f"The connection to {self.url} broke: {error}.", "postroom status")


def _trust() -> ssl.SSLContext:
    """Those that the system trusts, or the authorities of `--ca` alone; and what `--cert` shows. Raises FailedError."""
    file = os.environ.get("POSTROOM_CA") or None
    use, form = "--ca or POSTROOM_CA", "it holds no certificate in PEM form"
    try:
        context = ssl.create_default_context(cafile=file)
        if shown := os.environ.get("POSTROOM_CERT"):
            file, use, form = shown, "--cert or POSTROOM_CERT", "it holds no certificate with its key in PEM form"
            context.load_cert_chain(shown)
    except OSError as error:
        reason = form if isinstance(error, ssl.SSLError) else error.strerror
        raise FailedError(f"{file} cannot be used as {use}: {reason}.") from None
    return context


def _no_tls(url: str, error: Exception) -> UnreachableError:
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"The certificate that {url} shows is not good: {error.verify_message}."
        return UnreachableError(text, "postroom --ca CA.pem status, with the file of its authority")
    if getattr(error, "reason", "") in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return UnreachableError(
            f"No TLS is spoken at {url}.", f"postroom status --url {url.replace('https', 'http', 1)}"
        )
    text = f"The connection to {url} broke: {error}. It may want a certificate that it trusts."
    return UnreachableError(text, "postroom --cert MINE.pem status")


def topic_path(topic: str) -> str:
    """`/v1/topics/<topic>/messages`; levels keep their slashes, but an empty level must not vanish.
    Raises FailedError when it is empty, which no path can say."""
    if not topic:
        raise FailedError("The topic is empty; name one, such as orders/created.")
    plain = not topic.startswith("/") and not topic.endswith("/") and "//" not in topic
    dots = any(level in (".", "..") for level in topic.split("/"))
    return f"/v1/topics/{quote(topic, safe='/' if plain and not dots else '')}/messages"


def name_path(noun: str, name: str, verb: str = "") -> str:
    """`/v1/queues/<name>/<verb>` and the like."""
    return f"/v1/{noun}/{quote(name, safe='')}" + (f"/{verb}" if verb else "")


def refusal(status: int, content: bytes) -> RefusedError:
    """A problem document as an exception; other answers are told by their status."""
    try:
        problem = json.loads(content)
        text = " ".join(str(problem[part]) for part in ("title", "detail") if problem.get(part))
        return RefusedError(status, str(problem.get("code", "")), text or f"The daemon answered {status}.")
    except (ValueError, TypeError, AttributeError):
        reason = http.client.responses.get(status, "")
        return RefusedError(status, "", f"The answer is {status} {reason}, not Postroom's: is --url right?")


def _parse_events(response: http.client.HTTPResponse) -> Iterator[Event]:
    """Lines to events (WHATWG HTML §9.2.6). An event named `error` is a problem document, and raised."""
    name, event_id, data = "message", "", []
    while line := response.readline():
        field, _, value = line.rstrip(b"\r\n").decode().partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "id":
            event_id = value
        elif field == "event":
            name = value
        elif not line.strip():
            if data and name == "error":
                raise refusal(503, "\n".join(data).encode())
            if data:
                yield Event(name, event_id, json.loads("\n".join(data)))
            name, data = "message", []
