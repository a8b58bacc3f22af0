"""A named stream read and committed over plain HTTP."""

import pytest

from tests.protocols.http.conftest import Door


@pytest.fixture
async def stream(door: Door) -> Door:
    await door.queue("audit", ["a/#"], kind="stream", **{"from": "earliest"})
    for i in range(5):
        await door.publish(f"a/{i}", str(i))
    return door


async def test_a_reader_goes_on_from_its_cursor_after_a_restart(stream: Door) -> None:
    page = (await stream("GET", "/v1/streams/audit/messages?limit=2")).json
    assert [m["topic"] for m in page["messages"]] == ["a/0", "a/1"]
    assert (await stream("GET", "/v1/streams/audit/messages?limit=2")).json == page  # reading commits nothing
    moved = await stream("PUT", "/v1/streams/audit/cursor", {"position": page["next"]})
    assert (moved.status, moved.json) == (200, {"position": page["next"], "lag": 3})
    await stream.restart()
    assert (await stream("GET", "/v1/streams/audit/cursor")).json == moved.json
    page = (await stream("GET", "/v1/streams/audit/messages")).json
    assert [m["topic"] for m in page["messages"]] == ["a/2", "a/3", "a/4"]


async def test_a_cursor_never_goes_back_nor_past_the_end(stream: Door) -> None:
    epoch = stream.engine.epoch
    assert (await stream("PUT", "/v1/streams/audit/cursor", {"position": f"{epoch}.4"})).json["lag"] == 1
    assert (await stream("PUT", "/v1/streams/audit/cursor", {"position": f"{epoch}.1"})).json["lag"] == 1
    assert (await stream("PUT", "/v1/streams/audit/cursor", {"position": f"{epoch}.999"})).json["lag"] == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"position": "other.1"}, "bad_position"),
        ({"position": "x"}, "bad_position"),
        ({"position": 7}, "bad_request"),
        ({}, "bad_request"),
        ([], "bad_request"),
    ],
)
async def test_positions_that_do_not_fit_move_nothing(stream: Door, body: object, code: str) -> None:
    answer = await stream("PUT", "/v1/streams/audit/cursor", body)
    assert (answer.status, answer.code) == (400, code)
    assert (await stream("GET", "/v1/streams/audit/cursor")).json["lag"] == 5


async def test_queues_have_none(door: Door) -> None:
    await door.queue("q", ["a"])
    for method, path in (("GET", "messages"), ("GET", "cursor"), ("PUT", "cursor")):
        body = {"position": f"{door.engine.epoch}.0"} if method == "PUT" else None
        assert (await door(method, f"/v1/streams/q/{path}", body)).code == "wrong_kind"
        assert (await door(method, f"/v1/streams/none/{path}", body)).code == "unknown_subscription"
