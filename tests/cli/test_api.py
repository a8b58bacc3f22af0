"""The command's side of the HTTP door, against a plain server that says what a test wants said."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from broker.cli.api import Api, name_path, refusal, topic_path
from broker.cli.errors import FailedError, RefusedError, UnreachableError

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A loopback server whose answers are functions, in turn; the last one repeats."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.seen.append((self.command, self.path, dict(self.headers), body))
                answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    it = Server()
    thread = threading.Thread(target=it.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield it
    it.http.shutdown()
    thread.join()
    it.http.server_close()


def says(status: int, body: str, kind: str = "application/json", hang_up: bool = False) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body.encode())))
        request.end_headers()
        request.wfile.write(body.encode())
        request.close_connection = request.close_connection or hang_up

    return answer


def streams(text: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        request.wfile.write(text.encode())
        request.close_connection = True

    return answer


def test_json_there_and_back(server: Server) -> None:
    server.answers = [says(200, '{"count": 3}'), says(204, "")]
    api = Api(server.url)
    assert api.post("/v1/queues/a/redrive", {"x": 1}, limit=5, nothing=None) == {"count": 3}
    assert api.delete("/v1/subscriptions/a") is None
    method, path, headers, body = server.seen[0]
    assert (method, path, headers["Content-Type"], body) == (
        "POST",
        "/v1/queues/a/redrive?limit=5",
        "application/json",
        b'{"x": 1}',
    )
    api.close()


def test_a_problem_document_becomes_its_sentence_and_the_next_command(server: Server) -> None:
    server.answers = [
        says(404, '{"title": "There is no subscription.", "detail": "jobs", "code": "unknown_subscription"}')
    ]
    api = Api(server.url)
    with pytest.raises(RefusedError) as refused:
        api.get("/v1/subscriptions/jobs")
    assert refused.value.text == "There is no subscription. jobs"
    assert refused.value.hint == "postroom queue ls"
    assert refused.value.status == 404
    api.close()


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"\xff", b"null"])
def test_an_answer_that_is_not_ours(body: bytes) -> None:
    assert "502 Bad Gateway" in refusal(502, body).text


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError) as unreachable:
        Api("http://127.0.0.1:1").get("/v1/status")
    assert unreachable.value.hint == "postroom serve"


def test_the_native_port_is_no_http_address(server: Server) -> None:
    def frame(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"\x00\x00\x00\x6c\x94'\xc0\xafframe")
        request.close_connection = True

    server.answers = [frame]
    with pytest.raises(UnreachableError) as refusal:
        Api(server.url).get("/v1/status")
    assert refusal.value.text.endswith("is no HTTP; the daemon prints its HTTP address when it starts.")
    assert refusal.value.text.isprintable()


def test_no_address() -> None:
    with pytest.raises(FailedError, match="no HTTP address"):
        Api("postroom://127.0.0.1:7600")
    assert Api("localhost:7680/").url == "http://localhost:7680"


def test_a_get_survives_a_closed_connection_and_a_post_is_not_repeated(server: Server) -> None:
    server.answers = [says(200, "1", hang_up=True), says(200, "2", hang_up=True), says(200, "3")]
    api = Api(server.url)
    assert api.get("/a") == 1
    assert api.get("/a") == 2
    with pytest.raises(UnreachableError):
        api.post("/a")
    assert [method for method, *_ in server.seen] == ["GET", "GET"]
    api.close()


def test_silence_is_told_with_the_time_waited(server: Server) -> None:
    gate = threading.Event()

    def silent(request: BaseHTTPRequestHandler) -> None:
        gate.wait(5)
        request.close_connection = True

    server.answers = [silent]
    with pytest.raises(UnreachableError, match=r"0\.05 s"):
        Api(server.url, timeout=0.05).get("/a")
    gate.set()


def test_events(server: Server) -> None:
    server.answers = [
        streams(
            ': hello\n\nid: e.1\ndata: {"a":\ndata: 1}\n\nevent: lag\ndata: {}\n\nid: e.2\r\ndata: {"a": 2}\r\n\r\n'
        )
    ]
    events = list(Api(server.url).events("/v1/stream", last="e.0", topic="a/#"))
    assert events == [("message", "e.1", {"a": 1}), ("lag", "e.1", {}), ("message", "e.2", {"a": 2})]
    assert server.seen[0][1] == "/v1/stream?topic=a%2F%23"
    assert server.seen[0][2]["Last-Event-ID"] == "e.0"


def test_a_refused_stream(server: Server) -> None:
    server.answers = [says(400, '{"title": "Not a topic filter.", "code": "bad_filter"}')]
    with pytest.raises(RefusedError) as refused:
        next(Api(server.url).events("/v1/stream", topic="a#"))
    assert refused.value.code == "bad_filter"


@pytest.mark.parametrize(
    ("topic", "path"),
    [
        ("orders/created", "/v1/topics/orders/created/messages"),
        ("a b/ü?", "/v1/topics/a%20b/%C3%BC%3F/messages"),
        ("/a", "/v1/topics/%2Fa/messages"),
        ("a//b", "/v1/topics/a%2F%2Fb/messages"),
        ("a/../b", "/v1/topics/a%2F..%2Fb/messages"),
    ],
)
def test_topic_path(topic: str, path: str) -> None:
    assert topic_path(topic) == path


def test_name_path() -> None:
    assert name_path("queues", "a/b", "purge") == "/v1/queues/a%2Fb/purge"


def test_a_host_that_nobody_knows_is_said_so() -> None:
    with pytest.raises(UnreachableError, match=r"host name nowhere\.invalid cannot be found"):
        Api("http://nowhere.invalid:1").get("/livez")
