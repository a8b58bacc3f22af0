"""The bench's driver: its arithmetic, and its reading of frames however they are cut."""

import asyncio
import struct
from typing import Any

import msgpack
import pytest

from broker.cli.errors import FailedError
from broker.cli.load import Link, Result, Worker, percentile


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([], 0.5, 0.0),
        ([3.0], 0.99, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 3.0),
        ([float(n) for n in range(100)], 0.99, 99.0),
    ],
)
def test_percentile(values: list[float], share: float, wanted: float) -> None:
    assert percentile(values, share) == wanted


def packed(frame: list[Any]) -> bytes:
    body: bytes = msgpack.packb(frame)
    return struct.pack(">I", len(body)) + body


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def frames(self) -> list[list[Any]]:
        found, at = [], 0
        while at < len(self.written):
            stop = at + 4 + int.from_bytes(self.written[at : at + 4], "big")
            found.append(msgpack.unpackb(self.written[at + 4 : stop]))
            at = stop
        return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
async def test_frames_are_read_however_they_arrive(size: int) -> None:
    link = Link()
    link.connection_made(Wire())
    answer = link.expect(7)
    data = packed([32, 1, {"sequence": 4}]) + packed([99, "unknown"]) + packed([38, 7, {"created": True}])
    for at in range(0, len(data), size):
        link.data_received(data[at : at + size])
    assert (await link.welcome)["sequence"] == 4
    assert await answer == {"created": True}
    link.close()


@pytest.mark.parametrize(
    "frame",
    [
        [34, 1, 1, "disk_low", "The disk is nearly full."],
        [39, None, "internal", "A fault."],
        [37, 1, "unknown_subscription", "Gone."],
        [41, "stopping"],
    ],
)
async def test_a_refusal_ends_the_run(frame: list[Any]) -> None:
    link = Link()
    link.connection_made(Wire())
    link.data_received(packed(frame))
    with pytest.raises(FailedError):
        await link.broken
    with pytest.raises(FailedError):
        await link.request(1, "status")
    link.close()


async def test_the_error_of_a_request_is_its_own() -> None:
    link = Link()
    link.connection_made(Wire())
    answer = link.expect(3)
    link.data_received(packed([39, 3, "bad_option", "lease must be longer"]))
    with pytest.raises(FailedError, match="lease must be longer"):
        await answer
    assert not link.broken.done()
    link.close()


async def test_the_worker_acks_by_the_batch_and_asks_about_the_last() -> None:
    wire, worker = Wire(), Worker(Result(messages=3, window=2, body=8))
    worker.connection_made(wire)
    body = (0).to_bytes(8, "big")
    worker.data_received(packed([35, 1, 9, [[5, "t", 0, None, body], [6, "t", 0, None, body]]]))
    worker.data_received(packed([35, 1, 10, [[8, "t", 0, None, body]]]))
    assert wire.frames()[1:] == [
        [5, 1, "ack", [5, 6]],
        [4, 1, 2, 16],
        [5, 1, "ack", [8], None, Worker.LAST],
        [4, 1, 1, 8],
    ]
    worker.close()
