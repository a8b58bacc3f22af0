"""Bad input at the HTTP door of a real daemon: each gets a problem document that says what to do, and a neighbour stays
served."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.door import ask
from tests.system.neighbour import Neighbour, a_neighbour
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system

CONFIG = """
[http]
request_timeout = "2s"
[queues.work]
topics = ["work/#"]
[streams.audit]
topics = ["audit/#"]
"""
MESSAGES = "/v1/topics/work/1/messages"
LONG = "x" * 300


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("requests"), CONFIG) as served:
        yield served.ready()
        assert not served.errors()


@pytest.fixture(scope="module")
def neighbour(served: Served) -> Iterator[Neighbour]:
    with a_neighbour(served) as neighbour:
        yield neighbour


def raw(served: Served, data: bytes) -> tuple[int, Any]:
    """Send bytes as they are; status and JSON of the answer, which must end the connection or carry a length."""
    host, _, port = served.address("http").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WITHIN) as sock:
        sock.sendall(data)
        response = http.client.HTTPResponse(sock)
        response.begin()
        return response.status, json.loads(response.read())


def check(problem: Any, status: int, code: str, mend: str) -> None:
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:postroom:problem:{code}"
    assert mend in f"{problem['title']} {problem.get('detail', '')}"


@pytest.mark.parametrize(
    ("headers", "status", "code", "mend"),
    [
        ({"Postroom-Priority": "10"}, 400, "bad_option", "from 0 to 9"),
        ({"Postroom-Priority": "high"}, 400, "bad_option", "from 0 to 9"),
        ({"Postroom-Delay": "-1"}, 400, "bad_option", "Postroom-Delay"),
        ({"Postroom-Delay": "soon"}, 400, "bad_option", "Postroom-Delay"),
        ({"Postroom-Ttl": "0"}, 400, "bad_option", "ttl"),
        ({"Postroom-Colour": "red"}, 400, "bad_option", "there are Postroom-Id"),
        ({"Postroom-Id": ""}, 400, "bad_option", "1 to 255 bytes"),
        ({"Postroom-Id": LONG}, 400, "bad_option", "1 to 255 bytes"),
        ({"Postroom-Key": LONG}, 400, "bad_option", "1 to 255 bytes"),
        ({"Content-Type": LONG}, 400, "bad_option", "1 to 255 bytes"),
        ({"Content-Encoding": "gzip"}, 400, "bad_request", "is no gzip"),
        ({"Host": "evil.example"}, 403, "forbidden", "http.hosts"),
        ({"Origin": "https://evil.example"}, 403, "forbidden", "may not use"),
        ({f"Postroom-Header-{i}": "x" for i in range(65)}, 400, "bad_option", "at most 64"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_publish_with_bad_headers(
    served: Served, neighbour: Neighbour, headers: dict[str, str], status: int, code: str, mend: str
) -> None:
    found, problem, told = ask(served, "POST", MESSAGES, b"body", headers)
    assert (found, told["Content-Type"]) == (status, "application/problem+json")
    check(problem, status, code, mend)
    neighbour.is_served()


TOO_LONG = (1 << 20) + 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "mend"),
    [
        ("POST", MESSAGES, bytes(TOO_LONG), 413, "message_too_large", "the limit is 1048576 bytes (limits.max_body)"),
        ("POST", "/v1/topics/work/+/messages", b"", 400, "bad_topic", "no '+', '#'"),
        ("POST", "/v1/topics/work%2F%23/messages", b"", 400, "bad_topic", "no '+', '#'"),
        ("POST", "/v1/topics/work%00/messages", b"", 400, "bad_topic", "NUL"),
        ("POST", "/v1/topics/work%FF/messages", b"", 400, "bad_request", "UTF-8"),
        ("POST", "/v1/topics/%ED%A0%80/messages", b"", 400, "bad_request", "UTF-8"),
        ("POST", "/v1/topics/%24dead/work/messages", b"", 403, "forbidden", "the broker's own"),
        ("GET", f"{MESSAGES}?from=yesterday", None, 400, "bad_position", "RFC 3339"),
        ("GET", f"{MESSAGES}?limit=0", None, 400, "bad_option", "from 1 to"),
        ("GET", f"{MESSAGES}?colour=red", None, 400, "bad_request", "there are from, limit"),
        ("PATCH", MESSAGES, None, 405, "bad_request", "use GET, HEAD, POST"),
        ("GET", "/v1/nowhere", None, 404, "not_found", "the API begins with"),
        ("GET", "/v1/stream", None, 400, "bad_filter", "topic=orders/**"),
        ("GET", "/v1/stream?topic=a/+", None, 400, "bad_filter", "*"),
        ("GET", "/v1/stream?topic=a&from=yesterday", None, 400, "bad_position", "RFC 3339"),
        ("POST", "/v1/queues/nobody/receive", None, 404, "unknown_subscription", "create it first"),
        ("POST", "/v1/queues/audit/receive", None, 409, "wrong_kind", "queue or stream"),
        ("POST", "/v1/queues/work/receive?max=0", None, 400, "bad_option", "from 1 to"),
        ("POST", "/v1/queues/work/receive?wait=1h", None, 400, "bad_option", "at most"),
        ("POST", "/v1/queues/nobody/settle", b"[]", 404, "unknown_subscription", "create it first"),
        ("POST", "/v1/queues/work/settle", b"{", 400, "bad_request", "not JSON"),
        ("POST", "/v1/queues/work/settle", b"\xff", 400, "bad_request", "not JSON"),
        ("POST", "/v1/queues/work/settle", b"[" * 100_000, 400, "bad_request", "not JSON"),
        ("POST", "/v1/queues/work/settle", b"{}", 400, "bad_request", "send a list"),
        ("POST", "/v1/queues/work/settle", b"[]", 400, "bad_request", "send a list"),
        ("PUT", "/v1/subscriptions/new", b"nonsense", 400, "bad_request", "not JSON"),
        ("PUT", "/v1/subscriptions/new", b"[]", 400, "bad_request", ""),
        ("PUT", "/v1/subscriptions/new", b"{}", 400, "bad_option", "1 to 100 topic filters"),
        ("PUT", "/v1/subscriptions/new", b'{"topics": ["a/#/b"]}', 400, "bad_filter", "only at the end"),
        ("PUT", "/v1/subscriptions/new", b'{"topics": ["\\ud800"]}', 400, "bad_request", "not JSON"),
        ("PUT", "/v1/subscriptions/new", b'{"topics": ["a"], "lease": NaN}', 400, "bad_request", "not JSON"),
        ("PUT", "/v1/subscriptions/new", b'{"topics": ["a"], "max_messages": -1}', 400, "bad_option", "from 1"),
        ("PUT", "/v1/subscriptions/new", b'{"topics": ["a"], "colour": 1}', 400, "bad_option", "there are"),
        ("PUT", "/v1/subscriptions/new", b'{"topics": ["a"], "webhook": {}}', 400, "bad_option", "with a url"),
        ("PUT", "/v1/subscriptions/a%20b", b'{"topics": ["a"]}', 400, "bad_option", "letters, digits"),
        ("PUT", "/v1/subscriptions/work", b'{"topics": ["a"], "kind": "stream"}', 409, "conflict", "work is a queue"),
        ("GET", "/v1/subscriptions/nobody", None, 404, "unknown_subscription", "create it first"),
        ("DELETE", "/v1/subscriptions/nobody", None, 404, "unknown_subscription", "create it first"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request(
    served: Served, neighbour: Neighbour, method: str, path: str, body: bytes | None, status: int, code: str, mend: str
) -> None:
    found, problem, told = ask(served, method, path, body)
    assert (found, told["Content-Type"]) == (status, "application/problem+json")
    check(problem, status, code, mend)
    neighbour.is_served()


HEAD = b"POST /v1/topics/work/1/messages HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (HEAD + b"Content-Length: -5\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n", 400),
        (HEAD + b"Postroom-Id: a\r\nPostroom-Id: b\r\nContent-Length: 0\r\n\r\n", 400),
        (HEAD + b"Postroom-Key: \xff\xfe\r\nContent-Length: 0\r\n\r\n", 400),
        (HEAD + b"Postroom-Header-A: \xff\r\nContent-Length: 0\r\n\r\n", 400),
        (HEAD + b"Content-Type: text/\xff\r\nContent-Length: 0\r\n\r\n", 400),
        (HEAD + b"No colon here\r\n\r\n", 400),
        (HEAD + b"A: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"A%d: x\r\n" % i for i in range(200)) + b"\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
        (HEAD + b"Content-Length: 10\r\n\r\nhalf", 408),
        (b"POST /v1/topics/wo", 408),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_hardly_http(served: Served, neighbour: Neighbour, data: bytes, status: int) -> None:
    found, problem = raw(served, data)
    assert (found, problem["status"]) == (status, status)
    assert problem["title"]
    neighbour.is_served()


def test_a_body_without_an_end_is_cut_off_at_the_limit(served: Served, neighbour: Neighbour) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    found, problem = raw(served, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 66)
    assert found == 413
    check(problem, 413, "message_too_large", "the limit of 1048576 bytes")
    neighbour.is_served()


def test_one_bad_item_of_a_settle_does_not_stop_the_others(served: Served, neighbour: Neighbour) -> None:
    assert ask(served, "POST", MESSAGES, b"one")[0] == 201
    messages = ask(served, "POST", "/v1/queues/work/receive?wait=5s")[1]["messages"]
    receipt = messages[0]["receipt"]
    items: list[Any] = [
        5,
        {"receipt": "forged", "outcome": "ack"},
        {"receipt": receipt, "outcome": "explode"},
        {"receipt": receipt, "outcome": "ack", "delay": 5},
        {"receipt": receipt, "outcome": "retry", "delay": "never"},
        {"receipt": receipt, "outcome": "retry", "error": 5},
        {"receipt": receipt, "outcome": "extend", "duration": "1ms"},
        {"receipt": 5, "outcome": "ack"},
        {"receipt": receipt, "outcome": "retry", "delay": 0, "error": "the good one"},
    ]
    half = [{"receipt": receipt, "outcome": "retry", "error": "half a character: \ud800"}]
    assert ask(served, "POST", "/v1/queues/work/settle", json.dumps(half).encode())[0] == 400
    found, answer, _ = ask(served, "POST", "/v1/queues/work/settle", json.dumps(items).encode())
    assert found == 200
    assert [result["ok"] for result in answer["results"]] == [False] * 8 + [True]
    assert {result["problem"]["code"] for result in answer["results"][:8]} <= {"bad_option", "bad_request"}
    (again,) = ask(served, "POST", "/v1/queues/work/receive?wait=5s")[1]["messages"]
    assert again["attempt"] == 2
    ask(
        served, "POST", "/v1/queues/work/settle", json.dumps([{"receipt": again["receipt"], "outcome": "ack"}]).encode()
    )
    neighbour.is_served()
