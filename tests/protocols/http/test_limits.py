"""Limits at the HTTP door: told at once with Retry-After, before a body is taken; settles go on."""

from broker.limits import Limits
from tests.protocols.http.conftest import Door, DoorFactory, until

PUBLISH = "/v1/topics/a/messages"


async def test_who_publishes_too_fast_is_told_for_how_long_to_wait(open_door: DoorFactory) -> None:
    door = await open_door(Limits(publish_bytes_per_second=100))
    await door.queue("q", ["a"])
    await door.publish("a", b"x" * 1_000)
    refused = await door("POST", PUBLISH, b"y")
    assert (refused.status, refused.code) == (429, "rate_limited")
    assert 8 <= int(refused.headers["Retry-After"]) <= 9
    assert refused.json["detail"] == "local may publish 100 bytes a second; raise limits.publish_bytes_per_second"
    (message,) = await door.receive("q")
    assert (await door.settle("q", {"receipt": message["receipt"], "outcome": "ack"}))[0]["ok"]


async def test_a_refused_body_is_not_taken(open_door: DoorFactory) -> None:
    door = await open_door(Limits(publish_bytes_per_second=1))
    await door.publish("a", b"x" * 100)
    head = b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    reader, writer = await door.connect()
    writer.write(head)
    assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")


async def test_memory_that_is_short_is_told(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_uncommitted=1 << 20))
    door.hub.flow.enter("somebody else", "s", 5 << 20)
    refused = await door("POST", PUBLISH, b"x")
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "overloaded", "1")
    assert "limits.max_uncommitted" in refused.json["detail"]
    door.hub.flow.leave("somebody else", "s", 5 << 20)
    await door.publish("a", b"x")


async def test_what_is_limited_is_seen(open_door: DoorFactory) -> None:
    door = await open_door(Limits(publish_bytes_per_second=1))
    await door.publish("a", b"x" * 100)
    for _ in range(3):
        await door("POST", PUBLISH, b"y")
    limits = (await door("GET", "/v1/status")).json["limits"]
    (felt,) = limits.pop("in_force")
    assert (felt["limit"], felt["who"], felt["times"]) == ("limits.publish_bytes_per_second", "local", 3)
    assert limits == {"publishers_blocked": 0, "uncommitted_bytes": 0}
    metrics = (await door("GET", "/metrics")).body.decode()
    assert 'postroom_limit_hits_total{limit="publish_bytes_per_second"} 3.0' in metrics
    assert "postroom_publishers_blocked 0.0" in metrics


async def test_an_answered_request_leaves_nothing_in_hand(door: Door) -> None:
    await door.publish("a", b"x")
    await until(lambda: door.hub.flow.uncommitted == 0)
