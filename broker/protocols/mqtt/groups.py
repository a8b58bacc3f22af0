"""Shared subscriptions (§4.8.2): a group is ONE durable queue, `mqtt/$share/GROUP/FILTER`, and its members are that
queue's consumers. What one member does not answer goes to another; while none is connected it waits. The group lives
until the session of its last member ends. Floor 4.
"""

from collections.abc import Iterable
from contextlib import suppress

from broker.core.errors import BrokerError
from broker.core.topic import check_filter
from broker.hub import Hub
from broker.protocols.mqtt.codec.topics import Share, shared
from broker.protocols.mqtt.filters import Subscribed
from broker.protocols.mqtt.kept import escaped
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.session import Session, own_queue, share_tie
from broker.protocols.mqtt.turns import Turns

PREFIX = "mqtt/$share/"


def queue_of(share: Share) -> str:
    """The name of a group's queue."""
    return f"{PREFIX}{escaped(share.group)}/{share.filter}"


class Groups:
    """Who belongs to which."""

    def __init__(self, hub: Hub, options: MqttOptions) -> None:
        self._hub = hub
        self._options = options
        self._members: dict[str, set[Session]] = {}
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._members)

    async def join(self, session: Session, subscribed: Subscribed) -> None:
        """A new member; the first one makes the queue. Raises what making it does."""
        share = shared(subscribed.filter)
        assert share is not None
        name = queue_of(share)
        async with self._turns.turn(name):
            if name not in self._members:
                await self._hub.put_own(own_queue(name, (check_filter(share.filter),), self._options))
            self._members.setdefault(name, set()).add(session)
        self.remember(session, subscribed)

    def remember(self, session: Session, subscribed: Subscribed) -> None:
        """It is a member, of a queue that is there; or its options have changed."""
        share = shared(subscribed.filter)
        assert share is not None
        name = queue_of(share)
        self._members.setdefault(name, set()).add(session)
        tie = session.shares.get(subscribed.filter)
        if tie is None:
            session.shares[subscribed.filter] = share_tie(subscribed, name)
        else:
            tie.filters.put(subscribed)

    async def leave(self, session: Session, text: str) -> None:
        """A member goes; the last one takes the queue along."""
        tie = session.shares.pop(text)
        tie.detach()
        name = tie.queue
        assert name is not None
        async with self._turns.turn(name):
            members = self._members.get(name)
            if members is None:
                return
            members.discard(session)
            if not members:
                del self._members[name]
                with suppress(BrokerError):
                    await self._hub.engine.delete_subscription(name)

    def names(self) -> Iterable[str]:
        """The queues of all groups."""
        return self._members.keys()
