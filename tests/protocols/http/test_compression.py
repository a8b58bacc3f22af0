"""Large pages in gzip, for who takes it."""

import gzip
import json

import aiohttp
import pytest

from broker.protocols.http.compression import SMALLEST, takes_gzip
from tests.protocols.http.conftest import Door


async def page(door: Door, accepted: str, query: str = "?limit=1000") -> tuple[aiohttp.ClientResponse, bytes]:
    async with (
        aiohttp.ClientSession(f"http://{door.address}", auto_decompress=False) as session,
        session.get(f"/v1/topics/a/messages{query}", headers={"Accept-Encoding": accepted}) as response,
    ):
        return response, await response.read()


@pytest.mark.parametrize("size", [100, 5_000])  # packed on the loop, and beside it
async def test_a_large_page_is_packed_for_who_takes_it(door: Door, size: int) -> None:
    for n in range(30):
        await door.publish("a", {"n": n, "text": "x" * size})
    plain, whole = await page(door, "identity")
    assert "Content-Encoding" not in plain.headers
    packed, small = await page(door, "gzip, deflate")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert "Accept-Encoding" in plain.headers["Vary"]
    assert int(packed.headers["Content-Length"]) == len(small) < len(whole) / 3
    assert json.loads(gzip.decompress(small)) == json.loads(whole)


async def test_a_small_page_is_not(door: Door) -> None:
    await door.publish("a", {"n": 1})
    response, body = await page(door, "gzip")
    assert len(body) < SMALLEST
    assert "Content-Encoding" not in response.headers


async def test_live_streams_are_not(door: Door) -> None:
    async with door.session.get("/v1/stream?topic=a", headers={"Accept-Encoding": "gzip"}) as response:
        assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("gzip", True),
        ("GZIP;q=0.5, br", True),
        ("x-gzip", True),
        ("*", True),
        ("br, deflate", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*;q=0", False),
        ("", False),
        (";;,=", False),
    ],
)
def test_who_takes_it(accepted: str, takes: bool) -> None:
    assert takes_gzip(accepted) is takes
