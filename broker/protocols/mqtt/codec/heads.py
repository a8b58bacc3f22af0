"""The first byte of packets (§2.1): which may come from whom in which version, and why another may not."""

from functools import cache

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.error import MqttError, forbidden, malformed
from broker.protocols.mqtt.codec.packets import V5, V31

_FLAGS = {kind: 2 if kind in (Kind.PUBREL, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE) else 0 for kind in Kind}
_OF_CLIENT = (Kind.CONNECT, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE, Kind.PINGREQ)
_OF_SERVER = (Kind.CONNACK, Kind.SUBACK, Kind.UNSUBACK, Kind.PINGRESP)
_FLAG_RULES = {
    Kind.PUBREL: "MQTT-3.6.1-1",
    Kind.SUBSCRIBE: "MQTT-3.8.1-1",
    Kind.UNSUBSCRIBE: "MQTT-3.10.1-1",
    Kind.DISCONNECT: "MQTT-3.14.1-1",
    Kind.AUTH: "MQTT-3.15.1-1",
}


def check_first(head: int) -> None:
    """Of the first packet of a connection. [MQTT-3.1.0-1]"""
    if head >> 4 != Kind.CONNECT:
        raise forbidden("the first packet must be CONNECT", "MQTT-3.1.0-1")


def check_connect(head: int, version: int) -> None:
    """The flags of CONNECT, once the version is known. [MQTT-3.1.2-12]"""
    if head & 15 and version != V31:
        raise malformed(f"the flags of CONNECT are 0x{head & 15:X}", "MQTT-2.1.3-1", "MQTT-3.1.2-12")


@cache
def kinds(version: int, from_client: bool) -> tuple[int, ...]:
    """For each first byte the packet's kind, 0 where none may begin with it once a connection is open."""
    return tuple(head >> 4 if _fault(head, version, from_client) is None else 0 for head in range(256))


def refusal(head: int, version: int, from_client: bool) -> MqttError:
    """Why no packet may begin with this byte."""
    fault = _fault(head, version, from_client)
    assert fault is not None
    return fault


def _fault(head: int, version: int, from_client: bool) -> MqttError | None:
    kind, flags = Kind(head >> 4), head & 15
    if kind is Kind.WILL:
        return forbidden("packet type 0")
    if kind is Kind.CONNECT and from_client:
        return forbidden("a second CONNECT", "MQTT-3.1.0-2")
    if kind in (_OF_SERVER if from_client else _OF_CLIENT):
        return forbidden(f"{kind.name} from a {'client' if from_client else 'server'}")
    if kind is Kind.AUTH and version != V5:
        return forbidden("AUTH is of MQTT 5")
    if kind is Kind.DISCONNECT and version != V5 and not from_client:
        return forbidden("DISCONNECT from a server, which came with MQTT 5")
    if kind is Kind.PUBLISH:
        return _publish_fault(flags)
    if flags == _FLAGS[kind] or (version == V31 and _FLAGS[kind] == 2 and flags == 10):
        return None  # 3.1 knew DUP for every packet that is sent again
    rules = (_FLAG_RULES[kind],) if kind in _FLAG_RULES else ()
    return malformed(f"the flags of {kind.name} are 0x{flags:X}", "MQTT-2.1.3-1", *rules)


def _publish_fault(flags: int) -> MqttError | None:
    if flags & 6 == 6:
        return malformed("PUBLISH with QoS 3", "MQTT-3.3.1-4")
    if flags & 14 == 8:
        return malformed("PUBLISH with DUP and QoS 0", "MQTT-3.3.1-2")
    return None
