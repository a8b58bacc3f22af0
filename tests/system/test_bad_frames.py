"""Bad input at the native door of a real daemon: each gets an error that says what to do, and a neighbour stays
served. The codes are those of `core/errors`; what a test looks for in the text is the mend."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

from tests.system.frames import (
    ATTACH,
    ATTACHED,
    CLOSING,
    CONFIRM,
    CREDIT,
    DETACHED,
    ERROR,
    HELLO,
    PING,
    PONG,
    PUBLISH,
    REFUSE,
    REPLY,
    REQUEST,
    SETTLE,
    WELCOME,
    encode,
)
from tests.system.neighbour import Neighbour, a_neighbour
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system

CONFIG = """
[native]
hello_timeout = "1s"
[queues.work]
topics = ["work/#"]
[streams.audit]
topics = ["audit/#"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("frames"), CONFIG) as served:
        yield served.ready()
        assert not served.errors()


@pytest.fixture(scope="module")
def neighbour(served: Served) -> Iterator[Neighbour]:
    with a_neighbour(served) as neighbour:
        yield neighbour


class Rude:
    """A raw connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.file = sock.makefile("rb")

    def say(self, *frame: Any) -> None:
        self.socket.sendall(encode(*frame))

    def hear(self) -> tuple[Any, ...] | None:
        """The next frame; None at the end of the connection."""
        try:
            head = self.file.read(4)
            if len(head) < 4:
                return None
            packed = self.file.read(int.from_bytes(head, "big"))
        except ConnectionError:
            return None
        frame: tuple[Any, ...] = msgpack.unpackb(packed, use_list=False, strict_map_key=False)
        return frame

    def answers(self) -> bool:
        """Is this connection itself still served?"""
        self.say(PING, "still there")
        while (frame := self.hear()) is not None:
            if frame == (PONG, "still there"):
                return True
        return False


@contextmanager
def rude(served: Served, *, greeted: bool = True) -> Iterator[Rude]:
    host, _, port = served.address("native").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WITHIN) as sock:
        connection = Rude(sock)
        with connection.file:
            if greeted:
                connection.say(HELLO, 1, {"client": "rude"})
                welcome = connection.hear()
                assert welcome is not None
                assert welcome[0] == WELCOME
            yield connection


def framed(packed: bytes) -> bytes:
    return struct.pack(">I", len(packed)) + packed


# What ends the connection


@pytest.mark.parametrize(
    ("data", "code", "mend"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "frame_too_large", "the limit is 65536"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "frame_too_large", "the limit is 65536"),
        (b"\xff\xff\xff\xff", "frame_too_large", "the limit is 65536"),
        (struct.pack(">I", 65_537), "frame_too_large", "the limit is 65536"),
        (framed(b"\xc1"), "bad_frame", "see PROTOCOL.md or STREAM.md"),
        (framed(b""), "bad_frame", "see PROTOCOL.md or STREAM.md"),
        (framed(b"\x93\x01\x01\xa2\xff\xfe"), "bad_frame", "utf-8"),
        (framed(msgpack.packb({"type": 1})), "bad_frame", "begins with a type"),
        (framed(msgpack.packb([])), "bad_frame", "begins with a type"),
        (framed(msgpack.packb(["HELLO", 1])), "bad_frame", "begins with a type"),
        (framed(msgpack.packb([1, 1, {}]) + b"\x00"), "bad_frame", "extra data"),
        (encode(PUBLISH, 1, [["work/1", b""]]), "not_greeted", "first frame must be HELLO"),
        (encode(HELLO, 0, {}), "unsupported_version", "this broker speaks 1"),
        (encode(HELLO, "1", {}), "unsupported_version", "this broker speaks 1"),
        (encode(HELLO, 1, {"publisher": 5}), "bad_frame", "1 to 100 characters"),
        (encode(HELLO), "bad_frame", "missing"),
        (b"\x00\x00", "not_greeted", "no HELLO in time"),
    ],
)
def test_before_the_greeting(served: Served, neighbour: Neighbour, data: bytes, code: str, mend: str) -> None:
    with rude(served, greeted=False) as connection:
        connection.socket.sendall(data)
        check_end(connection, code, mend)
    neighbour.is_served()


def check_end(connection: Rude, code: str, mend: str) -> None:
    frame = connection.hear()
    while frame is not None and frame[0] == ATTACHED:
        frame = connection.hear()
    assert frame is not None
    assert frame[:3] == (ERROR, None, code)
    assert mend in frame[3]
    assert connection.hear() is None


@pytest.mark.parametrize(
    ("data", "code", "mend"),
    [
        (struct.pack(">I", (8 << 20) + 1), "frame_too_large", "the limit is 8388608"),
        (framed(b"\x94\x02\x01\x90" + b"\x91" * 40 + b"\xc0"), "", ""),
        (encode(REQUEST, 1, "status", {"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}), "bad_frame", "nested deeper than 16"),
        (framed(b"\x92\x0b\xd4\x05\x00"), "bad_frame", "extension type"),
        (framed(b"\x92\x0b\xa1\xff"), "bad_frame", "utf-8"),
        (encode(99), "bad_frame", "no frame type 99"),
        (encode(PUBLISH, 7, [["work/1", b""]]), "bad_frame", "sequence 7 where 1 was due"),
        (encode(PUBLISH, "1", [["work/1", b""]]), "bad_frame", ""),
        (encode(PUBLISH, 1, 5), "bad_frame", "wrong type"),
        (encode(PUBLISH), "bad_frame", "missing"),
        (encode(PUBLISH, 1, [["work/1", b""]] * 10_001), "bad_frame", "at most 10000 messages"),
        (encode(ATTACH, "one", "work"), "bad_frame", "no number"),
        (encode(ATTACH, 1, "work", {"credit": -5}), "bad_frame", "0 or more"),
        (encode(SETTLE, 1, "explode", [1]), "", ""),
        (encode(CREDIT, [1], 1), "", ""),
        (encode(HELLO, 1, {}), "bad_frame", ""),
    ],
)
def test_after_the_greeting(served: Served, neighbour: Neighbour, data: bytes, code: str, mend: str) -> None:
    with rude(served) as connection:
        connection.socket.sendall(data)
        if code:
            check_end(connection, code, mend)
        else:
            assert connection.answers()
    neighbour.is_served()


def test_a_connection_that_ends_in_the_middle_of_a_frame(served: Served, neighbour: Neighbour) -> None:
    with rude(served) as connection:
        connection.socket.sendall(encode(PUBLISH, 1, [["work/1", b"never whole"]])[:-3])
    neighbour.is_served()
    with rude(served) as connection:
        connection.say(REQUEST, 1, "read", {"topics": ["work/1"]})
        reply = connection.hear()
        assert reply is not None
        assert b"never whole" not in [row[4] for row in reply[2]["rows"]]


# What is refused on a connection that goes on

LONG = "x" * 300


@pytest.mark.parametrize(
    ("message", "code", "mend"),
    [
        (["work/1", bytes((1 << 20) + 1)], "message_too_large", "the limit is 1048576 bytes (limits.max_body)"),
        (["work/1", "text"], "bad_message", "must be bin"),
        (["work/1", None], "bad_message", "must be bin"),
        (["work/1", 5], "bad_message", "must be bin"),
        (["", b""], "bad_topic", ""),
        (["work/+", b""], "bad_topic", "no '+', '#'"),
        (["work/#", b""], "bad_topic", "no '+', '#'"),
        (["work\0", b""], "bad_topic", "NUL"),
        (["t" * 70_000, b""], "bad_topic", ""),
        ([5, b""], "bad_topic", ""),
        (["$dead/work", b""], "forbidden", "the broker's own"),
        (["work/1", b"", {"colour": "red"}], "bad_option", "there are id, key, headers"),
        (["work/1", b"", "red"], "bad_option", "must be a map"),
        (["work/1", b"", {"id": ""}], "bad_option", "1 to 255 bytes"),
        (["work/1", b"", {"id": LONG}], "bad_option", "1 to 255 bytes"),
        (["work/1", b"", {"key": LONG}], "bad_option", "1 to 255 bytes"),
        (["work/1", b"", {"key": b"k"}], "bad_option", "1 to 255 bytes"),
        (["work/1", b"", {"priority": 10}], "bad_option", "0 to 9"),
        (["work/1", b"", {"priority": 1.5}], "bad_option", "0 to 9"),
        (["work/1", b"", {"ttl": 0}], "bad_option", "positive number of milliseconds"),
        (["work/1", b"", {"delay": "soon"}], "bad_option", "milliseconds"),
        (["work/1", b"", {"delay": 5, "due": 5}], "bad_option", "either delay"),
        (["work/1", b"", {"headers": {"a": 1}}], "bad_option", "must be text"),
        (["work/1", b"", {"headers": {str(i): "" for i in range(65)}}], "bad_option", "at most 64"),
        (["work/1", b"", {"headers": {"a": "x" * 70_000}}], "bad_option", "64 KiB"),
        (["work/1", b"", {"headers": {str(i): "x" * 2_000 for i in range(64)}}], "bad_message", "the limit is 65536"),
    ],
)
def test_a_bad_message_among_good_ones(
    served: Served, neighbour: Neighbour, message: list[Any], code: str, mend: str
) -> None:
    """It alone is refused; those around it, in the same frame, are stored in order."""
    with rude(served) as connection:
        connection.say(PUBLISH, 1, [["good/1", b"before"], message, ["good/1", b"behind"]])
        refusal, confirm = connection.hear(), connection.hear()
        assert refusal is not None
        assert refusal[:4] == (REFUSE, 2, 1, code)
        assert mend in refusal[4]
        assert confirm is not None
        assert confirm[:2] == (CONFIRM, 3)
        placed = [(sequence + i, offset + i) for sequence, count, offset, _ in confirm[2] for i in range(count)]
        assert [sequence for sequence, _ in placed] == [1, 3]
        connection.say(REQUEST, 1, "read", {"topics": ["good/1"], "from": placed[0][1]})
        reply = connection.hear()
        assert reply is not None
        assert [(row[0], row[4]) for row in reply[2]["rows"]] == [(placed[0][1], b"before"), (placed[1][1], b"behind")]
    neighbour.is_served()


def test_an_atomic_batch_with_a_bad_message_is_refused_whole(served: Served, neighbour: Neighbour) -> None:
    with rude(served) as connection:
        connection.say(PUBLISH, 1, [["atomic/1", b"a"], ["atomic/+", b"b"], ["atomic/1", b"c"]], 1)
        refusal, confirm = connection.hear(), connection.hear()
        assert refusal is not None
        assert refusal[:4] == (REFUSE, 1, 3, "bad_topic")
        assert confirm is not None
        assert confirm[1] == 3
        connection.say(REQUEST, 1, "read", {"topics": ["atomic/1"]})
        reply = connection.hear()
        assert reply is not None
        assert reply[2]["rows"] == ()
    neighbour.is_served()


PUT: dict[str, Any] = {"name": "new", "topics": ["a"]}


@pytest.mark.parametrize(
    ("verb", "arguments", "code", "mend"),
    [
        ("explode", {}, "bad_request", "there are subscription.put"),
        ("status", [1], "bad_request", "must be a map"),
        ("subscription.get", {"name": "nobody"}, "unknown_subscription", "create it first"),
        ("subscription.get", {}, "bad_request", "name is missing"),
        ("subscription.get", {"name": 5}, "bad_request", "no text"),
        ("subscription.delete", {"name": "nobody"}, "unknown_subscription", "create it first"),
        ("subscription.put", {**PUT, "name": "a b"}, "bad_option", "letters, digits"),
        ("subscription.put", {**PUT, "topics": []}, "bad_option", "1 to 100 topic filters"),
        ("subscription.put", {**PUT, "topics": ["a/#/b"]}, "bad_filter", "only at the end"),
        ("subscription.put", {**PUT, "kind": "pile"}, "bad_option", "queue or stream"),
        ("subscription.put", {**PUT, "lease": "1ms"}, "bad_option", "from 100ms to 24h"),
        ("subscription.put", {**PUT, "lease": "long"}, "bad_option", "lease"),
        ("subscription.put", {**PUT, "colour": "red"}, "bad_option", "there are"),
        ("subscription.put", {**PUT, "retry": {"factor": 0}}, "bad_option", "from 1.0"),
        ("subscription.put", {**PUT, "webhook": {"url": "ftp://x"}}, "bad_option", "https://"),
        ("subscription.put", {**PUT, "name": "work", "kind": "stream"}, "conflict", "work is a queue"),
        ("queue.peek", {"name": "audit"}, "wrong_kind", "audit is a stream"),
        ("queue.peek", {"name": "work", "limit": 0}, "bad_option", "1 to 10000"),
        ("read", {"topics": []}, "bad_filter", "at least one"),
        ("read", {"topics": ["a"], "from": "yesterday"}, "bad_position", "RFC 3339"),
        ("read", {"topics": ["a"], "max_bytes": 1 << 40}, "bad_option", "max_bytes must be"),
        ("kv.get", {"key": ""}, "bad_request", "1 to 512"),
        ("schedule.cancel", {"id": 5}, "bad_request", "no text"),
    ],
)
def test_a_bad_request(served: Served, neighbour: Neighbour, verb: str, arguments: Any, code: str, mend: str) -> None:
    with rude(served) as connection:
        connection.say(REQUEST, 7, verb, arguments)
        frame = connection.hear()
        assert frame is not None
        assert frame[:3] == (ERROR, 7, code)
        assert mend in frame[3]
        assert connection.answers()
    neighbour.is_served()


@pytest.mark.parametrize(
    ("attach", "code", "mend"),
    [
        ((1, "nobody"), "unknown_subscription", "create it first"),
        ((1, 5), "bad_request", "named by text"),
        ((1, None, {"topics": ["a/#/b"]}), "bad_filter", "only at the end"),
        ((1, None, {}), "bad_filter", "at least one"),
        ((1, None, {"topics": ["a"], "from": "yesterday"}), "bad_position", "RFC 3339"),
        ((1, "work", {"topics": ["work/1"]}), "bad_option", "consumed whole"),
    ],
)
def test_a_bad_attach(served: Served, neighbour: Neighbour, attach: tuple[Any, ...], code: str, mend: str) -> None:
    with rude(served) as connection:
        connection.say(ATTACH, *attach)
        frame = connection.hear()
        assert frame is not None
        assert frame[:3] == (DETACHED, 1, code)
        assert mend in frame[3]
        assert connection.answers()
    neighbour.is_served()


def test_settles_of_what_is_not_in_hand_are_answered_as_late(served: Served, neighbour: Neighbour) -> None:
    with rude(served) as connection:
        connection.say(SETTLE, 1, "ack", [1, 2, 3], None, 9)
        assert connection.hear() == (REPLY, 9, (1, 2, 3))
        connection.say(ATTACH, 1, "work", {"credit": 1})
        connection.hear()
        connection.say(SETTLE, 1, "ack", [1 << 62, 77_777], None, 10)
        frame = connection.hear()
        assert frame is not None
        assert frame[:2] == (REPLY, 10)
        assert sorted(frame[2]) == [77_777, 1 << 62]
    neighbour.is_served()


def test_nobody_was_told_to_go(served: Served) -> None:
    """The daemon never thought of stopping."""
    with rude(served) as connection:
        connection.say(PING)
        frame = connection.hear()
        assert frame is not None
        assert frame[0] not in (CLOSING, ERROR)
