"""Keys and values, with revisions as entity tags."""

import pytest

from tests.protocols.http.conftest import Door


async def test_a_value_is_written_read_and_deleted(door: Door) -> None:
    written = await door("PUT", "/v1/kv/a/b", b"\xff1")
    assert written.status == 200
    assert written.headers["ETag"] == f'"{written.json["revision"]}"'
    await door.restart()
    read = await door("GET", "/v1/kv/a/b")
    assert (read.body, read.headers["ETag"]) == (b"\xff1", written.headers["ETag"])
    assert read.headers["Content-Type"] == "application/octet-stream"
    assert (await door("DELETE", "/v1/kv/a/b")).status == 204
    assert (await door("DELETE", "/v1/kv/a/b")).status == 204
    gone = await door("GET", "/v1/kv/a/b")
    assert (gone.status, gone.code) == (404, "not_found")


async def test_conditions_hold(door: Door) -> None:
    first = (await door("PUT", "/v1/kv/k", b"1", If_None_Match="*")).headers["ETag"]
    assert (await door("PUT", "/v1/kv/k", b"2", If_None_Match="*")).code == "condition_failed"
    second = await door("PUT", "/v1/kv/k", b"2", If_Match=first)
    assert second.status == 200
    for method in ("PUT", "DELETE"):
        refused = await door(method, "/v1/kv/k", b"3" if method == "PUT" else None, If_Match=first)
        assert (refused.status, refused.code) == (412, "condition_failed")
    assert (await door("GET", "/v1/kv/k")).body == b"2"
    assert (await door("DELETE", "/v1/kv/k", If_Match=second.headers["ETag"])).status == 204


@pytest.mark.parametrize(
    "headers", [{"If_Match": "7"}, {"If_Match": "*"}, {"If_Match": 'W/"7"'}, {"If_None_Match": '"7"'}, {"If_Match": ""}]
)
async def test_conditions_that_are_not_understood_are_refused(door: Door, headers: dict[str, str]) -> None:
    assert (await door("PUT", "/v1/kv/k", b"1", **headers)).code == "bad_request"
    assert (await door("GET", "/v1/kv")).json["keys"] == []


async def test_keys_are_listed_in_pages(door: Door) -> None:
    for key in ("b", "a/2", "a/1", "a/3", "c%2F%C3%A9"):
        assert (await door("PUT", f"/v1/kv/{key}", b"")).status == 200
    assert (await door("GET", "/v1/kv")).json["keys"] == ["a/1", "a/2", "a/3", "b", "c/é"]
    page = (await door("GET", "/v1/kv?prefix=a/&limit=2")).json
    assert page == {"keys": ["a/1", "a/2"], "next": "a/2"}
    assert (await door("GET", "/v1/kv?prefix=a/&limit=2&after=a/2")).json == {"keys": ["a/3"], "next": None}


@pytest.mark.parametrize("key", ["webhook/x", "drop/x"])
async def test_the_brokers_own_keys_are_not_there(door: Door, key: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert (await door(method, f"/v1/kv/{key}")).code == "forbidden"


async def test_keys_have_a_length(door: Door) -> None:
    assert (await door("PUT", f"/v1/kv/{'x' * 512}", b"1")).status == 200
    assert (await door("PUT", f"/v1/kv/{'x' * 513}", b"1")).code == "bad_request"
