"""The control packets of MQTT as values: what the decoder returns and the encoder takes.

`Publish` and `Ack`, which pass by the hundred thousand, are named tuples; the rest are frozen dataclasses. Fields have
their names of MQTT 5; what an older version cannot say has its default there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from broker.core.mqtt import MessageProperties
from broker.protocols.mqtt.codec.codes import Kind, Reason

V31, V311, V5 = 3, 4, 5
"""The protocol levels that CONNECT names."""


class Properties(MessageProperties, total=False):
    """Properties (§2.2.2) by name; `properties.py` has the table. Intervals are in seconds, sizes in bytes."""

    subscription_ids: list[int]
    session_expiry: int
    assigned_client_id: str
    server_keep_alive: int
    authentication_method: str
    authentication_data: bytes
    request_problem_information: int
    will_delay: int
    request_response_information: int
    response_information: str
    server_reference: str
    reason_string: str
    receive_maximum: int
    topic_alias_maximum: int
    topic_alias: int
    maximum_qos: int
    retain_available: int
    maximum_packet_size: int
    wildcard_subscriptions_available: int
    subscription_ids_available: int
    shared_subscriptions_available: int


_EMPTY: Mapping[str, Any] = MappingProxyType({})
NONE: Final = cast(Properties, _EMPTY)
"""No properties: shared by all packets without, and cannot be changed."""


class Publish(NamedTuple):
    """PUBLISH. `packet_id` is 0 with QoS 0; `topic` may be empty where `topic_alias` stands for it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = NONE


class Ack(NamedTuple):
    """PUBACK, PUBREC, PUBREL or PUBCOMP, for one packet identifier or, when plain, for all that came in a row."""

    kind: Kind
    packet_ids: tuple[int, ...]
    reason: Reason = Reason.SUCCESS
    properties: Properties = NONE


@dataclass(frozen=True, slots=True)
class Will:
    """What the server publishes when the client is lost."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT. `clean_start` is Clean Session before MQTT 5; `keep_alive` in seconds, 0 for none."""

    version: int
    client_id: str
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Connack:
    """CONNACK. Return codes of older versions are read and written as the reason that says the same."""

    reason: Reason = Reason.SUCCESS
    session_present: bool = False
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Request:
    """One filter of a SUBSCRIBE with its options. `filter` is as sent, `$share/…` included."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE."""

    packet_id: int
    requests: tuple[Request, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Suback:
    """SUBACK: a reason per filter, in order. Before MQTT 5 every failure is UNSPECIFIED_ERROR."""

    packet_id: int
    reasons: tuple[Reason, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE."""

    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Unsuback:
    """UNSUBACK: a reason per filter; none before MQTT 5."""

    packet_id: int
    reasons: tuple[Reason, ...] = ()
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Pingreq:
    """PINGREQ."""


@dataclass(frozen=True, slots=True)
class Pingresp:
    """PINGRESP."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """DISCONNECT. Before MQTT 5 only a client sends it, and only SUCCESS."""

    reason: Reason = Reason.SUCCESS
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Auth:
    """AUTH, of MQTT 5 alone."""

    reason: Reason = Reason.SUCCESS
    properties: Properties = field(default_factory=Properties)


Packet = (
    Publish
    | Ack
    | Connect
    | Connack
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
