"""Bytes to packets: framing, limits, and the fast paths for PUBLISH and its acknowledgements."""

from collections.abc import Callable
from enum import Enum, auto
from struct import Struct, iter_unpack
from typing import Final

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.connection import read_auth, read_connack, read_connect, read_disconnect, read_version
from broker.protocols.mqtt.codec.dialect import Dialect, Limits
from broker.protocols.mqtt.codec.error import MqttError, forbidden, malformed
from broker.protocols.mqtt.codec.fields import Reader
from broker.protocols.mqtt.codec.heads import check_connect, check_first, kinds, refusal
from broker.protocols.mqtt.codec.packets import NONE, V5, Ack, Packet, Pingreq, Pingresp, Publish
from broker.protocols.mqtt.codec.properties import read_properties
from broker.protocols.mqtt.codec.publication import read_ack, read_publish
from broker.protocols.mqtt.codec.subscription import read_suback, read_subscribe, read_unsuback, read_unsubscribe
from broker.protocols.mqtt.codec.topics import read_name

_READERS: Final[dict[int, Callable[[Reader, Dialect], Packet]]] = {
    Kind.CONNACK: read_connack,
    Kind.PUBACK: lambda reader, dialect: read_ack(reader, Kind.PUBACK, dialect),
    Kind.PUBREC: lambda reader, dialect: read_ack(reader, Kind.PUBREC, dialect),
    Kind.PUBREL: lambda reader, dialect: read_ack(reader, Kind.PUBREL, dialect),
    Kind.PUBCOMP: lambda reader, dialect: read_ack(reader, Kind.PUBCOMP, dialect),
    Kind.SUBSCRIBE: read_subscribe,
    Kind.SUBACK: read_suback,
    Kind.UNSUBSCRIBE: read_unsubscribe,
    Kind.UNSUBACK: read_unsuback,
    Kind.PINGREQ: lambda *_: Pingreq(),
    Kind.PINGRESP: lambda *_: Pingresp(),
    Kind.DISCONNECT: read_disconnect,
    Kind.AUTH: read_auth,
}
_KINDS = tuple(Kind)
_PUBLISH = int(Kind.PUBLISH)
_ACKS = frozenset((Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP))
_PLAIN_ACK = Struct(">HH")
_new = tuple.__new__


class _Stage(Enum):
    GREETING = auto()
    PENDING = auto()
    OPEN = auto()


class Decoder:
    """Cuts what a peer sends into packets and checks each. It sees bytes only: what a packet may mean to a session,
    such as an alias nobody has set or an identifier in use, is the session's business.

    A server's decoder begins with nothing: the first packet must be CONNECT, which sets the version. What follows it
    is kept until `admit`, AUTH excepted, so that nothing is acted on of a client that may yet be refused
    [MQTT-3.1.0-1, 3.1.4-6]. With a `version` the decoder is past the greeting; a client's has one, and
    `from_client=False`.
    """

    def __init__(self, limits: Limits | None = None, *, version: int = 0, from_client: bool = True) -> None:
        self.version = version
        """3, 4 or 5; 0 until CONNECT has told."""
        self._limits = limits or Limits()
        self._stage = _Stage.OPEN if version else _Stage.GREETING
        self._dialect = Dialect(version, from_client, self._limits)
        self._kinds = kinds(version, from_client)
        self._tail = bytearray()
        self._need = 0
        self._authenticates = False
        self._broken = False

    @property
    def kept(self) -> int:
        """Bytes of what is not complete, or not admitted yet."""
        return len(self._tail)

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are complete now. Raises MqttError, once, with the packets that came before; then the stream
        is lost, and what else arrives is ignored."""
        tail = self._tail
        if self._broken:
            return []
        if tail:
            tail += data
            if len(tail) < self._need:
                return []
            data = bytes(tail)
            tail.clear()
        return self._decode(data)

    def forget(self) -> None:
        """It is over: what came of a packet is of no use, and what else arrives is ignored."""
        self._broken = True
        self._tail = bytearray()

    def admit(self) -> list[Packet]:
        """The CONNECT was accepted: from now on all packets may come, up to the full size. Returns those that have.
        Raises MqttError."""
        self._stage = _Stage.OPEN
        data = bytes(self._tail)
        self._tail.clear()
        return [] if self._broken else self._decode(data)

    def _decode(self, data: bytes) -> list[Packet]:
        packets: list[Packet] = []
        try:
            at = 0 if self._stage is _Stage.OPEN else self._greet(data, packets)
            if self._stage is _Stage.OPEN:
                at = self._cut(data, packets, at)
        except MqttError as fault:
            self._broken = True
            fault.before = packets
            raise
        if at < len(data):
            self._tail += data[at:] if at else data
        return packets

    # Before a client is admitted

    def _greet(self, data: bytes, packets: list[Packet]) -> int:
        """Read CONNECT, and AUTH of a client that authenticates; returns where it stopped."""
        at, end = 0, len(data)
        while at < end:
            if self._stage is _Stage.PENDING and not self._is_auth(data[at]):
                self._need = self._limits.max_early + 1
                if end - at >= self._need:
                    raise MqttError(Reason.QUOTA_EXCEEDED, "too much was sent before CONNECT was answered")
                break
            if self._stage is _Stage.GREETING:
                check_first(data[at])
            body, stop = _frame(data, at)
            if stop - at > self._limits.max_connect:
                raise _too_large(stop - at, self._limits.max_connect)
            if stop > end:
                self._need = stop - at
                break
            reader = Reader(data, body, stop)
            read = self._connect if self._stage is _Stage.GREETING else self._auth
            packet = read(reader, data[at])
            reader.finish()
            packets.append(packet)
            at = stop
        return at

    def _connect(self, reader: Reader, head: int) -> Packet:
        self.version = read_version(reader)
        check_connect(head, self.version)
        self._dialect = Dialect(self.version, True, self._limits)
        self._kinds = kinds(self.version, True)
        packet = read_connect(reader, self._dialect)
        self._authenticates = "authentication_method" in packet.properties
        self._stage = _Stage.PENDING
        return packet

    def _is_auth(self, head: int) -> bool:
        """[MQTT-3.1.2-30]"""
        kind = head >> 4
        if self._authenticates and kind not in (Kind.AUTH, Kind.DISCONNECT):
            raise forbidden("before CONNACK a client that authenticates sends AUTH or DISCONNECT", "MQTT-3.1.2-30")
        return self._authenticates and kind == Kind.AUTH

    def _auth(self, reader: Reader, head: int) -> Packet:
        if not self._kinds[head]:
            raise refusal(head, self.version, from_client=True)
        return read_auth(reader, self._dialect)

    # After

    def _cut(self, data: bytes, packets: list[Packet], at: int) -> int:
        """Read all that is complete; returns where it stopped."""
        known, dialect, limit = self._kinds, self._dialect, self._limits.max_packet
        end = len(data)
        while end - at >= 2:
            head = data[at]
            kind = known[head]
            if not kind:
                raise refusal(head, dialect.version, dialect.from_client)
            size = data[at + 1]
            if size < 128:
                body = at + 2
                stop = body + size
            elif at + 2 < end and 0 < (high := data[at + 2]) < 128:  # two bytes, as most have
                body = at + 3
                stop = body + (size & 127 | high << 7)
            else:
                body, stop = _frame(data, at)
            if stop - at > limit:
                raise _too_large(stop - at, limit)
            if stop > end:
                self._need = stop - at
                return at
            if kind == _PUBLISH:
                at = _publish(data, at, body, stop, dialect, packets) or self._read(data, at, body, stop, packets)
            elif size == 2 and kind in _ACKS:
                at = _acks(data, at, packets)
            else:
                at = self._read(data, at, body, stop, packets)
        self._need = 2
        return at

    def _read(self, data: bytes, at: int, body: int, stop: int, packets: list[Packet]) -> int:
        reader = Reader(data, body, stop)
        kind = data[at] >> 4
        if kind == _PUBLISH:
            packet: Packet = read_publish(reader, data[at], self._dialect)
        else:
            packet = _READERS[kind](reader, self._dialect)
        reader.finish()
        packets.append(packet)
        return stop


def _frame(data: bytes, at: int) -> tuple[int, int]:
    """Where the body of the packet at `at` begins and ends; the end lies behind the data while the length is not
    complete. [MQTT-1.5.5-1]"""
    size = shift = 0
    for body in range(at + 1, min(at + 5, len(data))):
        byte = data[body]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte and shift:
                raise malformed("the remaining length is longer than need be", "MQTT-1.5.5-1")
            return body + 1, body + 1 + size
        shift += 7
    if shift == 28:
        raise malformed("the remaining length has more than four bytes", "MQTT-1.5.5-1")
    return len(data), len(data) + 1


def _too_large(size: int, limit: int) -> MqttError:
    return MqttError(Reason.PACKET_TOO_LARGE, f"a packet of {size} bytes, the limit is {limit}")


def _publish(data: bytes, at: int, body: int, stop: int, dialect: Dialect, packets: list[Packet]) -> int:
    """The usual PUBLISH, and when it has no properties those behind it that begin with the same bytes. Returns where
    they end, or 0: then it is an unusual or broken one, to be read with care."""
    if stop - body < 5:
        return 0
    name_start = body + 2
    name_end = name_start + (data[body] << 8 | data[body + 1])
    head = data[at]
    qos = head >> 1 & 3
    gap = 1 if dialect.version == V5 else 0
    payload = name_end + (2 if qos else 0) + gap
    if payload > stop or name_end == name_start:
        return 0
    packet_id = data[name_end] << 8 | data[name_end + 1] if qos else 0
    if qos and not packet_id:
        return 0
    topic = read_name(data[name_start:name_end])
    retain, dup = head & 1 == 1, head & 8 == 8
    properties = NONE
    if gap and data[payload - 1]:
        reader = Reader(data, payload - 1, stop)
        properties = read_properties(reader, Kind.PUBLISH, dialect)
        payload = reader.at
    elif data.startswith(start := data[at:name_end], stop):
        return _run(data, at, start, stop - at, (topic, qos, retain, dup), gap, packets)
    packets.append(_new(Publish, (topic, data[payload:stop], qos, retain, dup, packet_id, properties)))
    return stop


def _run(
    data: bytes, at: int, start: bytes, size: int, shape: tuple[str, int, bool, bool], gap: int, packets: list[Packet]
) -> int:
    """PUBLISHes of one publisher usually differ in identifier and payload alone: `start`, from the first byte through
    the topic, and `size` are the same, so that one format cuts up all. Returns where the run ends."""
    topic, qos, retain, dup = shape
    empty = b"\0" * gap
    rest = size - len(start) - len(empty) - (2 if qos else 0)
    whole = memoryview(data)[at : at + (len(data) - at) // size * size]
    add = packets.append
    if qos:
        for begins, packet_id, none, payload in iter_unpack(f">{len(start)}sH{gap}s{rest}s", whole):
            if begins != start or none != empty or not packet_id:
                break
            add(_new(Publish, (topic, payload, qos, retain, dup, packet_id, NONE)))
            at += size
        return at
    for begins, none, payload in iter_unpack(f">{len(start)}s{gap}s{rest}s", whole):
        if begins != start or none != empty:
            break
        add(_new(Publish, (topic, payload, 0, retain, dup, 0, NONE)))
        at += size
    return at


def _acks(data: bytes, at: int, packets: list[Packet]) -> int:
    """Plain acknowledgements of one kind in a row. Returns where they end."""
    head = data[at]
    packet_ids: list[int] = []
    add = packet_ids.append
    for start, packet_id in _PLAIN_ACK.iter_unpack(memoryview(data)[at : at + (len(data) - at & ~3)]):
        if start != head << 8 | 2 or not packet_id:
            break
        add(packet_id)
    if not packet_ids:
        raise forbidden("packet identifier 0", "MQTT-2.2.1-5")
    packets.append(_new(Ack, (_KINDS[head >> 4], tuple(packet_ids), Reason.SUCCESS, NONE)))
    return at + 4 * len(packet_ids)
