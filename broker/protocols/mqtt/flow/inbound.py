"""Messages that we received with QoS 2 and have not answered for good (§4.3.3)."""

from collections.abc import Iterable
from enum import Enum, IntEnum, auto
from typing import Final

from broker.protocols.mqtt.codec.error import forbidden


class Kept(IntEnum):
    """What an identifier of QoS 2 stands for: PENDING until the message is committed, OWNED from then to PUBREL."""

    PENDING = auto()
    OWNED = auto()


class Event(IntEnum):
    """What happens to it."""

    PUBLISH = auto()
    COMMITTED = auto()
    FAILED = auto()
    PUBREL = auto()


class Do(Enum):
    """What follows."""

    STORE = auto()
    WAIT = auto()
    PUBREC = auto()
    PUBREC_REFUSED = auto()
    PUBCOMP = auto()
    PUBCOMP_UNKNOWN = auto()
    BREACH = auto()
    NOTHING = auto()


TABLE: Final[dict[tuple[Kept | None, Event], tuple[Kept | None, Do]]] = {
    (None, Event.PUBLISH): (Kept.PENDING, Do.STORE),
    (None, Event.COMMITTED): (None, Do.NOTHING),
    (None, Event.FAILED): (None, Do.NOTHING),
    (None, Event.PUBREL): (None, Do.PUBCOMP_UNKNOWN),
    (Kept.PENDING, Event.PUBLISH): (Kept.PENDING, Do.WAIT),
    (Kept.PENDING, Event.COMMITTED): (Kept.OWNED, Do.PUBREC),
    (Kept.PENDING, Event.FAILED): (None, Do.PUBREC_REFUSED),
    (Kept.PENDING, Event.PUBREL): (Kept.PENDING, Do.BREACH),
    (Kept.OWNED, Event.PUBLISH): (Kept.OWNED, Do.PUBREC),
    (Kept.OWNED, Event.COMMITTED): (Kept.OWNED, Do.NOTHING),
    (Kept.OWNED, Event.FAILED): (Kept.OWNED, Do.NOTHING),
    (Kept.OWNED, Event.PUBREL): (None, Do.PUBCOMP),
}
"""Every pair there is; None is an identifier that is not in use."""


class Inbound:
    """The identifiers of QoS 2 that one sender uses; lives as long as the session, over all its connections. `owned`
    are those that a kept session had. QoS 1 needs no memory: each PUBLISH is a message of its own [MQTT-4.3.2-5]."""

    __slots__ = ("_kept",)

    def __init__(self, owned: Iterable[int] = ()) -> None:
        self._kept: dict[int, Kept] = dict.fromkeys(owned, Kept.OWNED)

    @property
    def owned(self) -> list[int]:
        """The identifiers that must outlive a crash."""
        return [packet_id for packet_id, kept in self._kept.items() if kept is Kept.OWNED]

    @property
    def used(self) -> list[int]:
        """The identifiers that are kept, or are about to be."""
        return list(self._kept)

    def publish(self, packet_id: int) -> Do:
        """A PUBLISH came: STORE it, WAIT for the commit that is under way, or answer PUBREC again.
        [MQTT-4.3.3-8, 4.3.3-10]"""
        return self._on(packet_id, Event.PUBLISH)

    def committed(self, packet_id: int) -> Do:
        """The message is on disk together with its identifier: PUBREC."""
        return self._on(packet_id, Event.COMMITTED)

    def failed(self, packet_id: int) -> Do:
        """The message was refused: PUBREC with the reason, and the identifier is free. [MQTT-4.3.3-9]"""
        return self._on(packet_id, Event.FAILED)

    def release(self, packet_id: int) -> Do:
        """PUBREL came: forget the identifier, commit that, then PUBCOMP; or PUBCOMP 0x92 at once. Raises PROTOCOL_ERROR
        for one whose PUBREC was not sent. [MQTT-4.3.3-11, 4.3.3-12]"""
        do = self._on(packet_id, Event.PUBREL)
        if do is Do.BREACH:
            raise forbidden(f"PUBREL for identifier {packet_id} before its PUBREC")
        return do

    def _on(self, packet_id: int, event: Event) -> Do:
        after, do = TABLE[self._kept.get(packet_id), event]
        if after is None:
            self._kept.pop(packet_id, None)
        else:
            self._kept[packet_id] = after
        return do
