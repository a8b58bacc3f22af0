"""Publish, settle and write keys together or not at all."""

from typing import Any

import pytest

from tests.protocols.http.conftest import Answer, Door

MESSAGE = {"topic": "a", "body": 1}


async def send(door: Door, **work: Any) -> Answer:
    return await door("POST", "/v1/units", work)


async def test_all_of_it_is_done(door: Door) -> None:
    await door.queue("orders", ["orders/#"])
    await door.publish("orders/1", b"1")
    (message,) = await door.receive("orders")
    answer = await send(
        door,
        settle=[{"queue": "orders", "receipt": message["receipt"], "outcome": "ack"}],
        publish=[{"topic": "mails", "body": {"order": 1}}],
        set=[{"key": "count", "value": "1", "expect": 0}],
    )
    assert answer.status == 200, answer
    assert answer.json["receipts"][0]["offset"] == 2
    assert len(answer.json["revisions"]) == 1
    assert (await door.info("orders"))["lag"] == 0
    assert (await door("GET", "/v1/kv/count")).body == b"1"
    assert (await door("GET", "/v1/topics/mails/messages")).json["messages"][0]["body"] == {"order": 1}
    assert door.server._receivers.holding() == 0


async def test_a_condition_that_fails_undoes_the_rest(door: Door) -> None:
    await door.queue("orders", ["orders/#"])
    await door.publish("orders/1", b"1")
    (message,) = await door.receive("orders")
    ack = {"queue": "orders", "receipt": message["receipt"], "outcome": "ack"}
    mail = {"topic": "mails", "body": 1}
    answer = await send(door, settle=[ack], publish=[mail], set=[{"key": "count", "value": "1", "expect": 7}])
    assert (answer.status, answer.code) == (412, "condition_failed")
    assert (await door.info("orders"))["leased"] == 1
    assert (await door.settle("orders", {"receipt": message["receipt"], "outcome": "ack"}))[0]["ok"]
    answer = await send(door, settle=[ack], publish=[mail], set=[{"key": "count", "value": "1"}])
    assert (answer.status, answer.code) == (409, "lease_lost")
    assert (await door("GET", "/v1/kv/count")).status == 404
    assert not (await door("GET", "/v1/topics/mails/messages")).json["messages"]


async def test_keys_are_deleted_and_hold_bytes(door: Door) -> None:
    await send(door, set=[{"key": "a", "value_base64": "/wA="}, {"key": "b", "value": "x"}])
    assert (await door("GET", "/v1/kv/a")).body == b"\xff\x00"
    await send(door, set=[{"key": "a", "value": None}])
    assert (await door("GET", "/v1/kv")).json["keys"] == ["b"]


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ({}, "bad_request"),
        ({"publish": []}, "bad_request"),
        ({"pubish": [MESSAGE]}, "bad_request"),
        ({"publish": [MESSAGE], "settle": [{"queue": "q", "receipt": "x", "outcome": "ack"}]}, "bad_request"),
        ({"publish": [MESSAGE], "settle": [{"queue": "q", "receipt": "x", "outcome": "extend"}]}, "bad_request"),
        ({"set": [{"key": "webhook/x", "value": "1"}]}, "forbidden"),
        ({"set": [{"key": "x"}]}, "bad_option"),
        ({"set": [{"key": "x", "value": "1", "value_base64": ""}]}, "bad_option"),
        ({"set": [{"key": "x", "value_base64": "?"}]}, "bad_message"),
        ({"set": [{"key": "x", "value": "1", "expect": -1}]}, "bad_request"),
        ({"publish": [MESSAGE, {"topic": "$sys/x", "body": 1}]}, "forbidden"),
        ([], "bad_request"),
    ],
)
async def test_what_does_not_fit_does_nothing(door: Door, work: Any, code: str) -> None:
    answer = await door("POST", "/v1/units", work)
    assert answer.code == code, answer
    assert not door.engine.topics()
    assert (await door("GET", "/v1/kv")).json == {"keys": [], "next": None}


async def test_a_message_is_settled_once(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    (message,) = await door.receive("q")
    settle = {"queue": "q", "receipt": message["receipt"]}
    outcomes = [settle | {"outcome": "ack"}, settle | {"outcome": "retry"}]
    assert (await send(door, settle=outcomes, publish=[{"topic": "b", "body": 1}])).code == "bad_request"
    delayed = [settle | {"outcome": "ack", "delay": "1s"}]
    assert (await send(door, settle=delayed, publish=[{"topic": "b", "body": 1}])).code == "bad_option"


@pytest.mark.parametrize("name", ["Idempotency-Key", "Postroom-Id", "Postroom-Key", "Postroom-Header-a"])
async def test_headers_that_describe_one_message_are_refused(door: Door, name: str) -> None:
    answer = await door("POST", "/v1/units", {"publish": [MESSAGE]}, **{name.replace("-", "_"): "x"})
    assert answer.status == 400
    assert name in answer.json["detail"]
    assert (await door("GET", "/v1/topics/%23/messages")).json["messages"] == []
