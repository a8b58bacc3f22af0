"""Subscriptions, health and numbers."""

import asyncio
import json
import re

import pytest
from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.core.subscription import Spec
from broker.protocols.http.operation import Answer, Operation, Tag
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.router import Route
from broker.protocols.http.server import HttpServer
from tests.protocols.http.conftest import Door, until

HOOK = Operation(Tag.BROKER, "Of another part", {200: Answer("Said back.")})


async def test_a_subscription_is_made_changed_shown_and_deleted(door: Door) -> None:
    path = "/v1/subscriptions/mail"
    made = await door("PUT", path, {"topics": ["orders/#"], "lease": "1m", "retry": {"max_attempts": 3}})
    assert made.status == 201
    shown = await door("GET", path)
    assert shown.json == made.json
    assert (shown.json["name"], shown.json["kind"], shown.json["lease"]) == ("mail", "queue", "1m")
    assert shown.json["retry"]["max_attempts"] == 3
    assert (await door("PUT", path, shown.json | {"lease": "2m"})).status == 200
    assert (await door("GET", path)).json["lease"] == "2m"
    assert [s["name"] for s in (await door("GET", "/v1/subscriptions")).json["subscriptions"]] == ["mail"]
    gone = await door("DELETE", path)
    assert (gone.status, gone.body) == (204, b"")
    for method in ("GET", "DELETE"):
        missing = await door(method, path)
        assert (missing.status, missing.code) == (404, "unknown_subscription")
    assert (await door("GET", "/v1/subscriptions")).json["subscriptions"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"topics": []}, 400, "bad_option"),
        ({"topics": ["a/#/b"]}, 400, "bad_filter"),
        ({"topics": ["a"], "colour": "red"}, 400, "bad_option"),
        ({"topics": ["a"], "name": "other"}, 400, "bad_request"),
        ({"topics": ["a"], "retry": {"schedule": 7}}, 400, "bad_option"),
        ([], 400, "bad_request"),
        (b"{", 400, "bad_request"),
        (b"\xff", 400, "bad_request"),
    ],
)
async def test_settings_that_do_not_fit_are_refused(door: Door, body: object, status: int, code: str) -> None:
    answer = await door("PUT", "/v1/subscriptions/q", body)
    assert (answer.status, answer.code) == (status, code)
    assert (await door("GET", "/v1/subscriptions")).json["subscriptions"] == []


async def test_names_and_kinds_that_do_not_fit_are_refused(door: Door) -> None:
    assert (await door("PUT", "/v1/subscriptions/a%20b", {"topics": ["a"]})).code == "bad_option"
    assert (await door("PUT", "/v1/subscriptions/a/b", {"topics": ["a"]})).code == "bad_option"
    await door.queue("q", ["a"])
    stream = await door("PUT", "/v1/subscriptions/q", {"kind": "stream", "topics": ["a"]})
    assert (stream.status, stream.code) == (409, "conflict")


async def test_what_a_connector_refuses_is_told(door: Door) -> None:
    def refuse(spec: Spec) -> None:
        raise BrokerError(Code.BAD_OPTION, "webhook.url: no such scheme")

    door.hub.checks.append(refuse)
    answer = await door("PUT", "/v1/subscriptions/q", {"topics": ["a"]})
    assert "no such scheme" in answer.json["detail"]


async def test_secrets_of_webhooks_are_not_shown_and_survive_a_round_trip(door: Door) -> None:
    webhook = {"url": "https://a.example/", "secret": "whsec_c2VjcmV0", "headers": {"Authorization": "Bearer abc"}}
    await door.queue("q", ["a"], webhook=webhook)
    shown = await door.info("q")
    assert shown["webhook"] == {"url": "https://a.example/", "secret": "***", "headers": {"Authorization": "***"}}
    listed = await door("GET", "/v1/subscriptions")
    assert b"c2VjcmV0" not in listed.body + (await door("PUT", "/v1/subscriptions/q", shown)).body
    assert door.engine.subscription("q").spec.sink == webhook
    changed = shown | {"webhook": {"url": "https://b.example/", "secret": "***", "headers": {"X-Key": "1"}}}
    assert (await door("PUT", "/v1/subscriptions/q", changed)).status == 200
    kept = {**webhook, "url": "https://b.example/", "headers": {"X-Key": "1"}}
    assert door.engine.subscription("q").spec.sink == kept
    refused = await door("PUT", "/v1/subscriptions/new", {"topics": ["a"], "webhook": shown["webhook"]})
    assert (refused.status, refused.code) == (400, "bad_option")
    assert "webhook.secret" in refused.json["detail"]


async def test_where_there_are_no_webhooks_there_is_no_secret(door: Door) -> None:
    await door.queue("q", ["a"])
    answer = await door("GET", "/v1/subscriptions/q/secret")
    assert (answer.status, answer.code) == (404, "not_found")


async def test_topics(door: Door) -> None:
    assert (await door("GET", "/v1/topics")).json["topics"] == []
    await door.publish("b", b"12345")
    await door.publish("a", b"1")
    topics = (await door("GET", "/v1/topics")).json["topics"]
    assert [(t["name"], t["messages"]) for t in topics] == [("a", 1), ("b", 1)]


async def test_health(door: Door) -> None:
    assert (await door("GET", "/livez")).status == 200
    ready = await door("GET", "/readyz")
    assert (ready.status, ready.json["status"]) == (200, "ready")
    head = await door("HEAD", "/readyz")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/v1/status", "/v1/topics", "/v1/topics/a/messages", "/"])
async def test_head_is_get_without_the_body(door: Door, path: str) -> None:
    whole, head = await door("GET", path), await door("HEAD", path)
    assert (head.status, head.body) == (whole.status, b"")
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]


async def test_who_comes_to_the_root_is_sent_to_the_reference(door: Door) -> None:
    async with door.session.get(f"http://{door.address}/", allow_redirects=False) as root:
        assert (root.status, root.headers["Location"]) == (302, "/docs")


async def test_what_has_no_end_has_no_head(door: Door) -> None:
    refused = await door("HEAD", "/v1/stream?topic=a")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET")


async def test_a_broker_whose_disk_failed_is_alive_and_not_ready(door: Door) -> None:
    door.engine.fail(OSError("Input/output error"))
    assert (await door("GET", "/livez")).status == 200
    ready = await door("GET", "/readyz")
    assert ready.status == 503
    assert "Input/output error" in ready.json["reason"]
    refused = await door("POST", "/v1/topics/a/messages", b"1")
    assert (refused.status, refused.code) == (503, "storage_failed")
    assert refused.headers["Retry-After"] == "30"


async def test_a_full_disk_blocks_publishers_only(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    door.engine.disk_low = "7 bytes free"
    refused = await door("POST", "/v1/topics/a/messages", b"1")
    assert (refused.status, refused.code) == (503, "disk_low")
    (message,) = await door.receive("q")
    assert (await door.settle("q", {"receipt": message["receipt"], "outcome": "ack"}))[0]["ok"]
    assert (await door("GET", "/readyz")).status == 200


async def test_a_full_queue_is_told(door: Door) -> None:
    await door.queue("q", ["a"], max_messages=1)
    await door.publish("a", b"1")
    refused = await door("POST", "/v1/topics/a/messages", b"2")
    assert (refused.status, refused.code) == (429, "queue_full")
    assert "Retry-After" in refused.headers


async def test_a_queue_that_blocks_lets_its_publisher_wait(door: Door) -> None:
    await door.queue("q", ["a"], max_messages=1, overflow="block")
    await door.publish("a", b"1")
    waiting = asyncio.create_task(door("POST", "/v1/topics/a/messages", b"2"))
    await until(lambda: door.engine.writer.blocked_units == 1)
    (message,) = await door.receive("q")
    assert not waiting.done()
    assert (await door.settle("q", {"receipt": message["receipt"], "outcome": "ack"}))[0]["ok"]
    assert (await waiting).status == 201
    assert [found["body_base64"] for found in await door.receive("q")] == ["Mg=="]


async def test_status(door: Door) -> None:
    await door.publish("a", b"1")
    status = (await door("GET", "/v1/status")).json
    assert status["state"] == "running"
    assert status["epoch"] == door.engine.epoch
    assert status["next_offset"] == 2
    assert status["committed_messages"] == 1


async def test_metrics(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    await door("GET", "/nowhere")
    answer = await door("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    lines = answer.body.decode().splitlines()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert values['postroom_state{state="running"}'] == 1
    assert values["postroom_committed_messages_total"] == 1
    assert values['postroom_subscription_ready{subscription="q"}'] == 1
    assert values['postroom_http_requests_total{route="publish",status="201"}'] == 1
    assert values['postroom_http_requests_total{route="(none)",status="404"}'] == 1
    assert values['postroom_http_request_seconds_count{route="publish"}'] == 1
    assert values["postroom_http_leased"] == 0
    assert all(re.match(r"postroom_|process_", name) for name in values)


async def test_paths_and_methods_that_do_not_exist(door: Door) -> None:
    missing = await door("GET", "/v2/nothing")
    assert (missing.status, missing.code) == (404, "not_found")
    wrong = await door("DELETE", "/v1/topics/a/messages")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert wrong.json["status"] == 405


async def test_a_fault_is_told_without_its_inside_and_logged(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(door.engine, "topic_names", broken)
    answer = await door("GET", "/v1/topics")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"the inside" not in answer.body
    assert "the inside" in caplog.text
    assert (await door("GET", "/livez")).status == 200


async def test_other_parts_bring_routes_and_status(door: Door) -> None:
    async def hello(request: web.BaseRequest, part: str) -> web.StreamResponse:
        return web.Response(body=json.dumps([part, (await request.read()).decode()]).encode())

    server = HttpServer(
        door.hub,
        HttpOptions(port=0),
        routes=[Route("POST", "/hooks/{name}", hello, "hook", HOOK)],
        more=lambda: {"listeners": ["x"]},
    )
    first, door.address = door.address, (await server.start())[0]
    try:
        assert (await door("POST", "/hooks/a%2Fb", b"hi")).json == ["a/b", "hi"]
        assert (await door("GET", "/v1/status")).json["listeners"] == ["x"]
    finally:
        door.address = first
        await server.stop(1)


async def test_two_routes_of_one_path_are_a_mistake(door: Door) -> None:
    async def nothing(request: web.BaseRequest, part: str) -> web.StreamResponse:
        raise AssertionError

    with pytest.raises(ValueError, match="two routes for GET /livez"):
        HttpServer(door.hub, HttpOptions(port=0), routes=[Route("GET", "/livez", nothing, "x", HOOK)])
