"""The HTTP door as tests without a loop use it: one call, one answer."""

import http.client
import json
from collections.abc import Mapping
from typing import Any

from tests.system.served import WITHIN, Served


def ask(
    served: Served, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any, Mapping[str, str]]:
    """Status, JSON and headers of the answer."""
    connection = http.client.HTTPConnection(served.address("http"), timeout=WITHIN)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null"), dict(response.getheaders())
    finally:
        connection.close()


def publish(served: Served, topic: str, body: bytes) -> tuple[int, Any]:
    """Status and receipt, or problem."""
    return ask(served, "POST", f"/v1/topics/{topic}/messages", body, {"Content-Type": "text/plain"})[:2]


def bodies(served: Served, topic: str) -> list[Any]:
    """All that the log has of a topic."""
    found: list[Any] = []
    start = "earliest"
    while True:
        page = ask(served, "GET", f"/v1/topics/{topic}/messages?limit=1000&from={start}")[1]
        found += [message["body"] for message in page["messages"]]
        if not page["messages"]:
            return found
        start = page["next"]


def status(served: Served) -> Any:
    """What `/v1/status` says."""
    return ask(served, "GET", "/v1/status")[1]
