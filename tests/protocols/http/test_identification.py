"""What a request is called, what trace it belongs to, and its line in the access log."""

import logging

import pytest

from tests.protocols.http.conftest import Door, DoorFactory

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def all_lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "broker.access")
    return caplog


async def test_every_answer_says_what_the_request_is_called(door: Door) -> None:
    first, second = await door("GET", "/livez"), await door("GET", "/nowhere")
    made = [answer.headers["Postroom-Request-Id"] for answer in (first, second)]
    assert made[0] != made[1]
    for name in ("Postroom-Request-Id", "X-Request-Id"):
        answer = await door("POST", "/v1/topics/a/messages", b"x", **{name.replace("-", "_"): "mine/1:2"})
        assert (answer.status, answer.headers.getall("Postroom-Request-Id")) == (201, ["mine/1:2"])
    for strange in ("a b", "é", "x" * 129, '"'):
        answer = await door("GET", "/livez", X_Request_Id=strange)
        assert answer.headers["Postroom-Request-Id"] not in (strange, "")


async def test_an_event_stream_says_it_too(door: Door) -> None:
    async with door.session.get("/v1/stream?topic=a", headers={"X-Request-Id": "mine"}) as response:
        assert response.headers["Postroom-Request-Id"] == "mine"
        assert response.headers["Server"] == "postroom"


async def test_a_trace_goes_into_the_headers_of_the_message(door: Door) -> None:
    await door.publish("a", b"1", traceparent=PARENT, tracestate="congo=1 , rojo=2")
    await door.publish("a", b"2", traceparent="00-nonsense", tracestate="congo=1")
    await door.publish("a", b"3", traceparent=PARENT, Postroom_Header_Traceparent="own", Postroom_Header_X="y")
    await door.publish("a", b"4")
    found = (await door("GET", "/v1/topics/a/messages")).json["messages"]
    assert [message["headers"] for message in found] == [
        {"traceparent": PARENT, "tracestate": "congo=1,rojo=2"},
        {},
        {"traceparent": "own", "x": "y"},
        {},
    ]


async def test_a_batch_and_a_unit_are_in_the_trace_of_their_request(door: Door) -> None:
    items = [{"topic": "a", "body": 1}, {"topic": "a", "body": 2, "headers": {"traceparent": "own", "x": "y"}}]
    kind = "application/json"
    assert (await door("POST", "/v1/messages", items, traceparent=PARENT, Content_Type=kind)).status == 201
    unit = {"publish": items[:1]}
    assert (await door("POST", "/v1/units", unit, traceparent=PARENT, Content_Type=kind)).status in (200, 201)
    found = (await door("GET", "/v1/topics/a/messages")).json["messages"]
    mine = {"traceparent": PARENT}
    assert [message["headers"] for message in found] == [mine, {"traceparent": "own", "x": "y"}, mine]


async def test_a_line_per_request(door: Door, all_lines: pytest.LogCaptureFixture) -> None:
    await door("GET", "/v1/topics/a%C3%A9b/messages?from=earliest", X_Request_Id="mine", traceparent=PARENT)
    await door("GET", "/v1/topics/a/messages?access_token=pr_1_hush", Authorization="Bearer hushhushhush")
    lines = [record.__dict__ for record in all_lines.records if record.name == "broker.access"]
    assert [(line["message"], line["method"], line["path"], line["query"], line["status"]) for line in lines] == [
        ("request", "GET", "/v1/topics/a%C3%A9b/messages", "from=earliest", 200),
        ("request", "GET", "/v1/topics/a/messages", "access_token=***", 400),
    ]
    good, bad = lines
    assert (good["levelname"], bad["levelname"]) == ("INFO", "WARNING")
    assert (good["request_id"], good["trace"]) == ("mine", PARENT[3:35])
    assert bad["code"] == "bad_request"
    assert good["principal"] == "local"
    assert good["address"].startswith("127.0.0.1:")
    assert "hush" not in repr(bad)


async def test_bytes_that_are_no_request_have_a_line_too(door: Door, all_lines: pytest.LogCaptureFixture) -> None:
    await door.bare(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
    (line,) = [record.__dict__ for record in all_lines.records if record.name == "broker.access"]
    assert (line["message"], line["status"], line["levelname"]) == ("no request", 400, "WARNING")


async def test_a_publish_from_an_allowed_page_can_be_read_by_it(open_door: DoorFactory) -> None:
    """The short way of writing an answer leaves none of the headers out."""
    door = await open_door(origins=["https://app.example.com"])
    answer = await door("POST", "/v1/topics/a/messages", b"x", Origin="https://app.example.com")
    assert answer.status == 201
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert answer.headers["Server"] == "postroom"
