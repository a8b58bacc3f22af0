"""The brokers that a user would pick instead, and which of them are here."""

from collections.abc import Sequence

from tests.bench.load import Target
from tests.bench.peers.mosquitto import Mosquitto
from tests.bench.peers.nats import Nats
from tests.bench.peers.rabbitmq import RabbitMq
from tests.bench.peers.redis import Redis

PEERS: tuple[Target, ...] = (Redis(), Nats(always=False), Nats(always=True), RabbitMq(), Mosquitto())
NAMES = tuple(peer.name for peer in PEERS)


def chosen(words: Sequence[str]) -> tuple[list[Target], list[Target]]:
    """`all`, `none` or names: (those that are installed, those that are not). Raises ValueError for another name."""
    unknown = sorted(set(words) - {*NAMES, "all", "none"})
    if unknown:
        raise ValueError(f"no peer is called {', '.join(unknown)}; there are {', '.join(NAMES)}, all and none")
    wanted = [peer for peer in PEERS if "all" in words or peer.name in words]
    return [peer for peer in wanted if not peer.missing()], [peer for peer in wanted if peer.missing()]
