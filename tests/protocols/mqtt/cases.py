"""Bytes and packets that break a normative statement of MQTT 5.0 each, and how they are refused.

`cites` is the statement that the refusal names, where it is another or none: a user name that is no UTF-8 is told as
text that is no UTF-8.
"""

from dataclasses import dataclass

import pytest

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import V5, Ack, Connack, Packet, Publish
from tests.protocols.mqtt.vectors import payload

MALFORMED, PROTOCOL = Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR
VERSION, CLIENT_ID, ALIAS = (
    Reason.UNSUPPORTED_PROTOCOL_VERSION,
    Reason.CLIENT_IDENTIFIER_NOT_VALID,
    Reason.TOPIC_ALIAS_INVALID,
)
NO_STATEMENT = ""


@dataclass(frozen=True)
class Case:
    """`sent` is read by whoever receives it, or, a packet, to be written."""

    statement: str
    what: str
    sent: bytes | Packet
    reason: Reason
    cites: str | None = None
    version: int = V5
    from_client: bool = True

    def __str__(self) -> str:
        return f"{self.statement} {self.what}"

    def happen(self) -> None:
        """Read it or write it."""
        if isinstance(self.sent, bytes):
            Decoder(version=self.version, from_client=self.from_client).feed(self.sent)
        else:
            encode(self.sent, V5)

    def check(self) -> None:
        """Fails unless the rule is kept."""
        with pytest.raises(MqttError) as caught:
            self.happen()
        assert caught.value.reason is self.reason
        cited = self.statement if self.cites is None else self.cites
        assert cited in caught.value.rules if cited else not caught.value.rules


def client(statement: str, what: str, text: str, reason: Reason = MALFORMED, cites: str | None = None) -> Case:
    """Sent by a client on an open connection."""
    return Case(f"MQTT-{statement}", what, payload(text), reason, cites)


def server(statement: str, what: str, text: str, reason: Reason = MALFORMED, cites: str | None = None) -> Case:
    """Sent by a server."""
    return Case(f"MQTT-{statement}", what, payload(text), reason, cites, from_client=False)


def first(statement: str, what: str, text: str, reason: Reason = MALFORMED, cites: str | None = None) -> Case:
    """The first that a client sends."""
    return Case(f"MQTT-{statement}", what, payload(text), reason, cites, version=0)


def written(statement: str, what: str, packet: Packet, reason: Reason = MALFORMED, cites: str | None = None) -> Case:
    """What we would send ourselves."""
    return Case(f"MQTT-{statement}", what, packet, reason, cites)


UTF8, NUL = "MQTT-1.5.4-1", "MQTT-1.5.4-2"
START = "10 r13 s4 'MQTT' 05"

BROKEN = (
    client("1.5.4-1", "a surrogate", "30 r6 s3 EDA080 v0"),
    client("1.5.4-1", "an overlong form", "30 r5 s2 C0AF v0"),
    client("1.5.4-1", "a cut-off sequence", "82 r8 m1 v0 s2 'aC3'".replace("'aC3'", "'a' C3") + " 00"),
    client("1.5.4-2", "U+0000 in a topic", "30 r5 s2 'a' 00 v0"),
    client("1.5.4-2", "U+0000 in a reason", "40 r8 m1 00 v4 1F s1 00"),
    written("1.5.4-1", "a surrogate", Publish("a", b"", properties={"content_type": "\ud800"})),
    written("1.5.4-2", "U+0000", Publish("a", b"", properties={"user": [("a", "\0")]})),
    client("1.5.5-1", "a longer remaining length", "30 85 00 s1 'a' v0 'x'"),
    client("1.5.5-1", "five bytes of it", "30 80 80 80 80 01"),
    client("1.5.5-1", "a longer property length", "30 r5 s1 'a' 80 00"),
    client("1.5.7-1", "the name of a user property", "30 r11 s1 'a' v7 26 s1 FF s1 'b'"),
    client("1.5.7-1", "the value of a user property", "30 r11 s1 'a' v7 26 s1 'b' s1 00"),
    client("2.1.3-1", "PINGREQ 0xC1", "C1 r0"),
    client("2.1.3-1", "PUBACK 0x41", "41 r2 m1"),
    client("2.2.1-3", "SUBSCRIBE 0", "82 r7 m0 v0 s1 'a' 00", PROTOCOL),
    client("2.2.1-3", "PUBLISH 0", "32 r6 s1 'a' m0 v0", PROTOCOL),
    client("2.2.1-3", "UNSUBSCRIBE 0", "A2 r6 m0 v0 s1 'a'", PROTOCOL),
    written("2.2.1-4", "PUBLISH 0", Publish("a", b"", 1), PROTOCOL),
    client("2.2.1-5", "PUBACK 0", "40 r2 m0", PROTOCOL),
    written("2.2.1-5", "PUBACK 0", Ack(Kind.PUBACK, (0,)), PROTOCOL),
    first("3.1.0-1", "PINGREQ first", "C0 r0", PROTOCOL),
    first("3.1.0-1", "AUTH first", "F0 r0", PROTOCOL),
    client("3.1.0-2", "CONNECT again", START + " 02 k10 v0 s0", PROTOCOL),
    first("3.1.2-1", "MQTX", "10 r13 s4 'MQTX' 05 02 k10 v0 s0", VERSION),
    first("3.1.2-2", "level 6", "10 r13 s4 'MQTT' 06 02 k10 v0 s0", VERSION),
    first("3.1.2-2", "MQIsdp level 4", "10 r15 s6 'MQIsdp' 04 02 k10 s1 'a'", VERSION),
    first("3.1.2-3", "the reserved flag", START + " 03 k10 v0 s0"),
    first("3.1.2-6", "a will flag without a will", START + " 06 k10 v0 s0", cites=NO_STATEMENT),
    first("3.1.2-7", "a will QoS without a will", START + " 0A k10 v0 s0"),
    first("3.1.2-8", "a will retain without a will", START + " 22 k10 v0 s0"),
    first("3.1.2-9", "a will without payload", "10 r17 s4 'MQTT' 05 06 k10 v0 s0 v0 s1 'a'", cites=NO_STATEMENT),
    first("3.1.2-12", "CONNECT 0x11", "11 r13 s4 'MQTT' 05 02 k10 v0 s0"),
    first("3.1.2-13", "a will retain without a will", START + " 22 k10 v0 s0"),
    first("3.1.2-16", "a user name unannounced", "10 r16 s4 'MQTT' 05 02 k10 v0 s0 s1 'a'", cites=NO_STATEMENT),
    first("3.1.2-17", "a user name missing", START + " 82 k10 v0 s0", cites=NO_STATEMENT),
    first("3.1.2-18", "a password unannounced", "10 r19 s4 'MQTT' 05 82 k10 v0 s0 s1 'a' s1 'b'", cites=NO_STATEMENT),
    first("3.1.2-19", "a password missing", START + " 42 k10 v0 s0", cites=NO_STATEMENT),
    first(
        *("3.1.2-30", "PINGREQ while authenticating"),
        *("10 r17 s4 'MQTT' 05 02 k10 v4 15 s1 'a' s0 C0 r0", PROTOCOL),
    ),
    first("3.1.3-11", "a will topic that is no UTF-8", "10 r19 s4 'MQTT' 05 06 k10 v0 s0 v0 s1 FF s0", cites=UTF8),
    first("3.1.3-12", "a user name that is no UTF-8", "10 r16 s4 'MQTT' 05 82 k10 v0 s0 s1 FF", cites=UTF8),
    first("3.1.4-1", "bytes behind the payload", "10 r14 s4 'MQTT' 05 02 k10 v0 s0 00", cites=NO_STATEMENT),
    first("3.1.4-1", "no payload", "10 r11 s4 'MQTT' 05 02 k10 v0", cites=NO_STATEMENT),
    server("3.2.2-1", "flags 0x02", "20 r3 02 00 v0"),
    server("3.2.2-6", "a session with a refusal", "20 r3 01 87 v0", PROTOCOL),
    written("3.2.2-6", "a session with a refusal", Connack(Reason.NOT_AUTHORIZED, True), PROTOCOL),
    server("3.2.2-8", "reason 0x8D", "20 r3 00 8D v0", PROTOCOL),
    written("3.2.2-8", "reason 0x8D", Connack(Reason.KEEP_ALIVE_TIMEOUT), PROTOCOL),
    client("3.3.1-2", "DUP with QoS 0", "38 r4 s1 'a' v0"),
    written("3.3.1-2", "DUP with QoS 0", Publish("a", b"", dup=True)),
    client("3.3.1-4", "QoS 3", "36 r6 s1 'a' m1 v0"),
    written("3.3.1-4", "QoS 3", Publish("a", b"", 3, packet_id=1)),
    client("3.3.2-1", "a topic that is no UTF-8", "30 r4 s1 FF v0", cites=UTF8),
    client("3.3.2-1", "no topic", "30 r1 00", cites=NO_STATEMENT),
    client("3.3.2-2", "a/+", "30 r6 s3 'a/+' v0"),
    client("3.3.2-2", "#", "30 r4 s1 '#' v0"),
    client("3.3.2-7", "alias 0", "30 r7 s1 'a' v3 23 H0", ALIAS),
    client("3.3.2-8", "alias 0", "30 r7 s1 'a' v3 23 H0", ALIAS),
    written("3.3.2-8", "alias 0", Publish("a", b"", properties={"topic_alias": 0}), ALIAS),
    client("3.3.2-13", "a response topic that is no UTF-8", "30 r8 s1 'a' v4 08 s1 FF", cites=UTF8),
    client("3.3.2-14", "a wildcard in the response topic", "30 r8 s1 'a' v4 08 s1 '+'"),
    client("3.3.2-19", "a content type that is no UTF-8", "30 r8 s1 'a' v4 03 s1 FF", cites=UTF8),
    client("3.3.4-6", "a subscription identifier", "30 r6 s1 'a' v2 0B v1", PROTOCOL),
    client("3.4.2-1", "PUBACK 0x92", "40 r3 m1 92", PROTOCOL),
    client("3.5.2-1", "PUBREC 0x92", "50 r3 m1 92", PROTOCOL),
    client("3.6.1-1", "PUBREL 0x60", "60 r2 m1"),
    client("3.6.2-1", "PUBREL 0x80", "62 r3 m1 80", PROTOCOL),
    client("3.7.2-1", "PUBCOMP 0x80", "70 r3 m1 80", PROTOCOL),
    client("3.8.1-1", "SUBSCRIBE 0x80", "80 r7 m1 v0 s1 'a' 00"),
    client("3.8.3-1", "a filter that is no UTF-8", "82 r7 m1 v0 s1 FF 00", cites=UTF8),
    client("3.8.3-2", "no filter", "82 r3 m1 v0", PROTOCOL),
    client("3.8.3-3", "no filter", "82 r3 m1 v0", PROTOCOL),
    client("3.8.3-4", "No Local and shared", "82 r16 m1 v0 s10 '$share/g/a' 04", PROTOCOL),
    client("3.8.3-5", "option 0x40", "82 r7 m1 v0 s1 'a' 40"),
    client("3.8.3-5", "option 0x80", "82 r7 m1 v0 s1 'a' 80"),
    server("3.9.3-1", "SUBACK without a reason", "90 r3 m1 v0"),
    server("3.9.3-2", "SUBACK 0x03", "90 r4 m1 v0 03", PROTOCOL),
    client("3.10.1-1", "UNSUBSCRIBE 0xA0", "A0 r6 m1 v0 s1 'a'"),
    client("3.10.3-1", "a filter that is no UTF-8", "A2 r6 m1 v0 s1 FF", cites=UTF8),
    client("3.10.3-2", "no filter", "A2 r3 m1 v0", PROTOCOL),
    server("3.11.3-1", "UNSUBACK without a reason", "B0 r3 m1 v0"),
    server("3.11.3-2", "UNSUBACK 0x10", "B0 r4 m1 v0 10", PROTOCOL),
    client("3.14.1-1", "DISCONNECT 0xE1", "E1 r0"),
    client("3.14.2-1", "a server's reason", "E0 r1 8E", PROTOCOL),
    client("3.14.2-1", "no reason at all", "E0 r1 05", PROTOCOL),
    server("3.14.2-2", "a session expiry", "E0 r7 00 v5 11 L1", PROTOCOL),
    client("3.15.1-1", "AUTH 0xF1", "F1 r0"),
    client("3.15.2-1", "a server's reason", "F0 r6 00 v4 15 s1 'a'", PROTOCOL),
    client("4.7.0-1", "a/#", "30 r6 s3 'a/#' v0"),
    client("4.7.1-1", "a#", "82 r8 m1 v0 s2 'a#' 00"),
    client("4.7.1-1", "#/a", "82 r9 m1 v0 s3 '#/a' 00"),
    client("4.7.1-2", "a+", "82 r8 m1 v0 s2 'a+' 00"),
    client("4.7.3-1", "an empty topic", "30 r3 s0 v0"),
    client("4.7.3-1", "an empty filter", "82 r6 m1 v0 s0 00"),
    client("4.7.3-2", "U+0000 in a filter", "82 r7 m1 v0 s1 00 00", cites=NUL),
    written("4.7.3-3", "65,536 bytes", Publish("a" * 65_536, b""), cites=NO_STATEMENT),
    client("4.8.2-1", "$share/g", "82 r14 m1 v0 s8 '$share/g' 00"),
    client("4.8.2-1", "$share//a", "82 r15 m1 v0 s9 '$share//a' 00"),
    client("4.8.2-2", "$share/g+/a", "82 r17 m1 v0 s11 '$share/g+/a' 00"),
    client("4.12.0-5", "AUTH without a method", "F0 r2 18 v0", PROTOCOL),
)
