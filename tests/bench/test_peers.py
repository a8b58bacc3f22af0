"""The drivers' own framing, on bytes as servers send them, however the network cuts them."""

import asyncio
import re
from typing import cast

import pytest

from tests.bench.load import Load
from tests.bench.peers import mosquitto, nats, rabbitmq, redis
from tests.bench.peers.installed import NAMES, PEERS, chosen
from tests.bench.peers.side import PublishingSide, Side

LOAD = Load(count=3, window=2, size=8)


class Sink:
    """What a transport is to a driver."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def tied(side: Side) -> Sink:
    sink = Sink()
    side.connection_made(cast(asyncio.Transport, sink))
    return sink


def started(side: PublishingSide) -> Sink:
    """Greeted already, its first window sent."""
    sink = tied(side)
    if not side.ready.done():
        side.ready.set_result(None)
    side.begin()
    return sink


async def test_bodies_hold_no_line_ends() -> None:
    body = Load(count=1, window=1, size=4096).body()
    assert len(body) == 4096
    assert not set(body) & {10, 13}


@pytest.mark.parametrize("cut", range(1, 40))
async def test_nats_counts_answers_that_arrive_in_pieces(cut: int) -> None:
    side = nats.Publisher(LOAD)
    started(side)
    answers = b"".join(b'MSG _INBOX.p 1 26\r\n{"stream":"S", "seq":%6d}\r\n' % n for n in range(3))
    for at in range(0, len(answers), cut):
        side.data_received(answers[at : at + cut])
    assert side.settled == 3
    assert side.done.done()
    assert side.sent == 3


@pytest.mark.parametrize("cut", range(1, 60, 7))
async def test_nats_acks_each_message_once_it_is_whole(cut: int) -> None:
    side = nats.Consumer(LOAD)
    sink = tied(side)
    side.data_received(b"PONG\r\n")
    sink.written = b""
    messages = b"".join(b"MSG q.x 1 $JS.ACK.%d 4\r\nMSG \r\n" % n for n in range(3))
    for at in range(0, len(messages), cut):
        side.data_received(messages[at : at + cut])
    assert re.findall(rb"PUB (\$JS.ACK.\d) 4\r\n\+ACK\r\n", sink.written) == [b"$JS.ACK.%d" % n for n in range(3)]
    assert side.buffer == b""
    assert side.done.done()


@pytest.mark.parametrize("cut", [1, 5, 1000])
async def test_redis_acks_what_a_whole_reply_holds(cut: int) -> None:
    side = redis.Consumer(LOAD)
    sink = tied(side)
    side.data_received(b"+OK\r\n")
    sink.written = b""
    ids = [b"1700000000000-%d" % n for n in range(3)]
    entries = b"".join(b"*2\r\n$15\r\n%s\r\n%s" % (i, redis.command(b"b", b"x" * 8)) for i in ids)
    reply = b":1\r\n*1\r\n*2\r\n$1\r\nq\r\n*3\r\n" + entries
    for at in range(0, len(reply), cut):
        side.data_received(reply[at : at + cut])
    assert sink.written == redis.command(b"XACK", b"q", b"g", *ids) + side.ask
    assert side.done.done()
    assert side.buffer == b""


async def test_redis_asks_again_when_it_waited_in_vain() -> None:
    side = redis.Consumer(LOAD)
    sink = tied(side)
    side.data_received(b"+OK\r\n")
    sink.written = b""
    side.data_received(b"*-1\r\n")
    assert sink.written == side.ask


async def test_a_refusal_ends_the_side_with_its_words() -> None:
    side = redis.Publisher(LOAD)
    sink = started(side)
    side.data_received(b"-OOM command not allowed\r\n")
    assert sink.closed
    with pytest.raises(RuntimeError, match="OOM command not allowed"):
        await side.done


async def test_rabbitmq_confirms_of_one_and_of_many() -> None:
    side = rabbitmq.Publisher(LOAD)
    sink = started(side)
    assert sink.written.count(side.one) == 2
    side.data_received(rabbitmq.method((60, 80), (1).to_bytes(8, "big") + b"\0"))
    assert (side.settled, side.sent) == (1, 3)
    side.data_received(rabbitmq.method((60, 80), (3).to_bytes(8, "big") + b"\1"))
    assert side.settled == 3
    assert side.done.done()


@pytest.mark.parametrize("cut", [1, 9, 1000])
async def test_rabbitmq_acks_up_to_the_last_delivery(cut: int) -> None:
    side = rabbitmq.Consumer(LOAD)
    sink = tied(side)
    sink.written = b""
    deliver = [rabbitmq.short(b"c") + tag.to_bytes(8, "big") + b"\0" + rabbitmq.short(b"q") for tag in (1, 2, 3)]
    data = b"".join(rabbitmq.method((60, 60), each) + rabbitmq.frame(3, b"x" * 8) for each in deliver)
    for at in range(0, len(data), cut):
        side.data_received(data[at : at + cut])
    assert sink.written.endswith(rabbitmq.method((60, 80), (3).to_bytes(8, "big") + b"\1"))
    assert side.done.done()


async def test_rabbitmq_says_why_it_closed() -> None:
    side = rabbitmq.Consumer(LOAD)
    tied(side)
    side.data_received(rabbitmq.method((10, 50), (403).to_bytes(2, "big") + rabbitmq.short(b"ACCESS_REFUSED")))
    with pytest.raises(RuntimeError, match="ACCESS_REFUSED"):
        await side.ready


@pytest.mark.parametrize("cut", [1, 3, 1000])
async def test_mosquitto_messages_are_acked_by_their_packet_ids(cut: int) -> None:
    side = mosquitto.Subscriber(LOAD)
    sink = tied(side)
    sink.written = b""
    packets = [mosquitto.packet(0x32, mosquitto.text(b"q/x") + bytes((0, n)) + b"x" * 200) for n in (1, 2, 3)]
    data = b"".join(packets)
    for at in range(0, len(data), cut):
        side.data_received(data[at : at + cut])
    assert sink.written == b"\x40\x02\0\1\x40\x02\0\2\x40\x02\0\3"
    assert side.done.done()


async def test_a_lost_connection_ends_both_waits() -> None:
    side = mosquitto.Publisher(LOAD)
    tied(side)
    side.connection_lost(None)
    for waiter in (side.ready, side.done):
        with pytest.raises(ConnectionError):
            await waiter


def test_peers_are_chosen_by_name() -> None:
    installed, missing = chosen(["all"])
    assert {peer.name for peer in (*installed, *missing)} == set(NAMES)
    assert all(peer.missing() for peer in missing)
    assert chosen(["none"]) == ([], [])
    installed, missing = chosen(["redis", "nats"])
    assert [peer.name for peer in PEERS if peer in installed or peer in missing] == ["redis", "nats"]


def test_a_name_that_is_no_peer_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"kafka; there are redis, .*mosquitto, all and none"):
        chosen(["redis", "kafka"])
