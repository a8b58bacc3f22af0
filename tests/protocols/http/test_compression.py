"""Large pages in gzip, for who takes it."""

import gzip
import json
import zlib
from collections.abc import Callable
from itertools import pairwise

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.protocols.http.compression import SMALLEST, Unpacker, takes_gzip
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


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS = [("gzip", gzip.compress), ("X-GZip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)]


def unpacked(coding: str, pieces: list[bytes], limit: int) -> bytes:
    unpacker = Unpacker(coding, limit)
    body = b"".join([unpacker.feed(piece) for piece in pieces])
    if len(body) <= limit:
        unpacker.end()
    return body


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@given(body=st.binary(max_size=400), cuts=st.lists(st.integers(0, 500)), limit=st.integers(0, 500))
def test_a_body_is_unpacked_however_it_comes(
    coding: str, pack: Callable[[bytes], bytes], body: bytes, cuts: list[int], limit: int
) -> None:
    sent = pack(body)
    places = [0, *sorted(cuts), len(sent)]
    pieces = [sent[start:end] for start, end in pairwise(places)]
    assert unpacked(coding, pieces, limit) == body[: limit + 1]


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@given(body=st.binary(min_size=1, max_size=400), data=st.data())
def test_one_that_was_cut_off_is_refused(
    coding: str, pack: Callable[[bytes], bytes], body: bytes, data: st.DataObject
) -> None:
    sent = pack(body)
    kept = data.draw(st.integers(1, len(sent) - 1))
    with pytest.raises(BrokerError, match=r"in the middle|is no") as refusal:
        unpacked(coding, [sent[:kept]], 1_000)
    assert refusal.value.code is Code.BAD_REQUEST


def test_a_gzip_may_have_several_members() -> None:
    assert unpacked("gzip", [gzip.compress(b"one ") + gzip.compress(b"two")], 100) == b"one two"


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        ("gzip", b"no gzip at all"),
        ("gzip", gzip.compress(b"one") + b"more"),
        ("deflate", zlib.compress(b"one") + b"more"),
        ("br", b""),
        ("gzip, gzip", b""),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(coding: str, sent: bytes) -> None:
    with pytest.raises(BrokerError, match=r"the body is no|send gzip"):
        unpacked(coding, [sent], 100)
