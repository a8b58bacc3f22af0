"""A client that minds its own business beside one that does not, and notices when it is disturbed."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from postroom_client import sync

from tests.system.served import WITHIN, Served


class Neighbour:
    """One connection for all its life; it publishes to a queue of its own and works that off."""

    def __init__(self, served: Served, client: sync.Client, deliveries: sync.Deliveries) -> None:
        self._served = served
        self._client = client
        self._deliveries = deliveries
        self._count = 0

    def is_served(self) -> None:
        """Fails unless a message is confirmed and comes back to it, and the daemon says that it is well."""
        self._count += 1
        receipt = self._client.publish("neighbour/1", str(self._count))
        message = self._deliveries.receive(WITHIN)
        assert (message.offset, message.data) == (receipt.offset, str(self._count))
        message.settle("ack")
        with urllib.request.urlopen(f"http://{self._served.address('http')}/readyz", timeout=WITHIN) as response:
            assert response.status == 200

    def lost_nothing(self) -> None:
        """Fails unless all that was ever confirmed to it is there, once."""
        page = self._client.read("neighbour/1", limit=10_000)
        assert [message.data for message in page.messages] == [str(n + 1) for n in range(self._count)]


@contextmanager
def a_neighbour(served: Served) -> Iterator[Neighbour]:
    """Beside whatever happens in the block; at the end it must have lost nothing."""
    with sync.connect(f"postroom://{served.address('native')}") as client:
        client.put_subscription("neighbour", "neighbour/#", **{"from": "latest"})
        with client.consume("neighbour") as deliveries:
            neighbour = Neighbour(served, client, deliveries)
            neighbour.is_served()
            yield neighbour
            neighbour.is_served()
            neighbour.lost_nothing()
