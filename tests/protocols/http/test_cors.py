"""Pages of other origins: which may ask, and what they may see."""

import aiohttp
import pytest
from pydantic import ValidationError

from broker.protocols.http.options import HttpOptions
from tests.protocols.http.conftest import Door, DoorFactory, next_event

PAGE = "https://app.example.com"


@pytest.fixture
async def door(open_door: DoorFactory) -> Door:
    return await open_door(origins=[PAGE, "http://localhost:8000"])


async def test_an_allowed_page_sees_answers_and_refusals(door: Door) -> None:
    for path, status in (("/v1/topics/a/messages", 200), ("/v1/nothing", 404), ("/v1/queues/none/peek", 404)):
        answer = await door("GET", path, Origin=PAGE)
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert "Origin" in answer.headers["Vary"]


async def test_a_page_may_follow_and_work(door: Door) -> None:
    await door.queue("work", ["a"])
    await door.publish("a", b"1", Origin=PAGE)
    async with door.session.get("/v1/stream?topic=a", headers={"Origin": PAGE}) as stream:
        assert stream.headers["Access-Control-Allow-Origin"] == PAGE
        assert (await next_event(stream.content)).name == "start"
    answer = await door("POST", "/v1/queues/work/receive", Origin=PAGE)
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert len(answer.json["messages"]) == 1
    async with door.session.ws_connect("/v1/stream", headers={"Origin": PAGE}) as socket:
        assert (await socket.receive_json())["type"] == "welcome"


async def test_a_preflight_is_answered_without_a_body(door: Door) -> None:
    answer = await door(
        "OPTIONS",
        "/v1/topics/a/messages",
        Origin=PAGE,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization,postroom-key,postroom-header-colour",
    )
    assert (answer.status, answer.body) == (204, b"")
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,postroom-key,postroom-header-colour"
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://app.example.com", f"{PAGE}:444", f"{PAGE}."]
)
async def test_every_other_page_is_refused(door: Door, origin: str) -> None:
    for method in ("GET", "OPTIONS"):
        answer = await door(method, "/v1/topics/a/messages", Origin=origin, Access_Control_Request_Method="GET")
        assert (answer.status, answer.code) == (403, "forbidden")
        assert "Access-Control-Allow-Origin" not in answer.headers
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await door.session.ws_connect("/v1/stream", headers={"Origin": origin})
    assert refused.value.status == 403


async def test_origins_are_compared_without_case(door: Door) -> None:
    answer = await door("GET", "/livez", Origin="HTTPS://App.Example.com")
    assert answer.headers["Access-Control-Allow-Origin"] == "HTTPS://App.Example.com"


async def test_own_pages_and_other_clients_get_no_such_headers(door: Door) -> None:
    for headers in ({}, {"Origin": f"http://{door.address}"}):
        answer = await door("GET", "/livez", **headers)
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("origin", ["*", "null", "https://a.example/", "https://*.example", "a.example", "https://u@a"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError):
        HttpOptions(origins=(origin,))


def test_origins_are_kept_in_lower_case() -> None:
    assert HttpOptions(origins=("HTTPS://App.example.com",)).origins == ("https://app.example.com",)
