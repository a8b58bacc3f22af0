"""The bare design with MQTT 3.1.1 at QoS 1 in front of it: one publisher, one subscriber, the same log as `prototype`.

Packets are cut and answered, and no more: no topics, filters, sessions, limits or errors. Its work per message must
stay as it is, or ratios of different days mean different things.

    python -m tests.bench.prototype_mqtt PORT FOLDER
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import uvloop

from tests.bench.child import child, free_port, listening, python
from tests.bench.prototype import Log, Row, serve

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x80, 0x90
QOS_1 = 0x02
ROOM = 60_000
"""Messages that the subscriber may have unanswered."""


class Connection(asyncio.Protocol):
    """Of a publisher or a subscriber."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.buffer = b""
        self.packet_id = 0
        self.inflight: dict[bytes, int] = {}
        self.queue: list[Row] = []
        self.at = 0
        self.above: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, error: Exception | None) -> None:
        self.log.subscribers = [s for s in self.log.subscribers if s is not self]

    def data_received(self, data: bytes) -> None:
        buffer, at, log, now = self.buffer + data if self.buffer else data, 0, self.log, time.time_ns()
        end, add, number = len(buffer), log.pending.append, int.from_bytes
        while end - at >= 2:
            start, length, shift = at + 1, 0, 0
            while start < end:
                byte = buffer[start]
                length |= (byte & 127) << shift
                start, shift = start + 1, shift + 7
                if byte < 128:
                    break
            else:
                break
            after = start + length
            if end < after:
                break
            kind = buffer[at] & 0xF0
            if kind == PUBLISH:
                tag = start + 2 + number(buffer[start : start + 2], "big")
                log.offset += 1
                row = (log.offset, buffer[start + 2 : tag].decode(), now, None, buffer[tag + 2 : after])
                add((self, buffer[tag : tag + 2], row))
            elif kind == PUBACK:
                self.settle(self.inflight.pop(buffer[start : start + 2], None))
            elif kind == CONNECT:
                self.transport.write(bytes((CONNACK, 2, 0, 0)))
            elif kind == SUBSCRIBE:
                self.transport.write(bytes((SUBACK, 3)) + buffer[start : start + 2] + b"\1")
                log.subscribers.append(self)
            at = after
        self.buffer = buffer[at:]
        if self.queue:
            self.push()
        if log.pending or log.settled:
            log.wake.set()

    def settle(self, offset: int | None) -> None:
        if offset is None:
            return
        log = self.log
        log.settled = True
        self.above.add(offset)
        while log.floor + 1 in self.above:
            log.floor += 1
            self.above.remove(log.floor)

    def confirm(self, tags: Sequence[bytes]) -> None:
        self.transport.write(b"".join([b"\x40\x02" + tag for tag in tags]))

    def deliver(self, rows: Sequence[Row]) -> None:
        self.queue.extend(rows)
        self.push()

    def push(self) -> None:
        """As many as the subscriber has room for."""
        room = ROOM - len(self.inflight)
        rows = self.queue[self.at : self.at + room] if room > 0 else []
        if not rows:
            return
        self.at += len(rows)
        if self.at == len(self.queue):
            self.queue, self.at = [], 0
        out, packet_id, inflight = [], self.packet_id, self.inflight
        for offset, topic, _, _, body in rows:
            packet_id = packet_id % 65_535 + 1
            tag, name = packet_id.to_bytes(2, "big"), topic.encode()
            inflight[tag] = offset
            length, head = 4 + len(name) + len(body), bytearray((PUBLISH | QOS_1,))
            while length > 127:
                head.append(length & 127 | 128)
                length >>= 7
            head.append(length)
            out.append(bytes(head) + len(name).to_bytes(2, "big") + name + tag + body)
        self.packet_id = packet_id
        self.transport.write(b"".join(out))


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[int]:
    """It on a free port, listening."""
    port = free_port()
    with child(python("tests.bench.prototype_mqtt", str(port), str(folder)), folder) as process:
        await listening(process, port, folder)
        yield port


async def main(port: int, folder: Path) -> None:
    await serve(port, Log(folder), Connection)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
