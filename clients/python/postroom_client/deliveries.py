"""`consume`: the messages of a queue as an async iterator."""

from types import TracebackType

from postroom_client.connection import Connection
from postroom_client.consumer import Consumer
from postroom_client.message import Message


class Deliveries:
    """`async for message in deliveries`, until `close`. Dropped without being closed (a `break`), it closes by itself:
    what was not taken goes back to the queue without counting an attempt."""

    def __init__(self, connection: Connection, consumer: Consumer) -> None:
        self._connection = connection
        self._consumer = consumer
        self._opened = False

    async def open(self) -> "Deliveries":
        """Begin; iterating does it by itself. Raises what the broker refuses it for."""
        if not self._opened:
            self._opened = True
            self._connection.check()
            await self._connection.readers.attach(self._consumer)
        return self

    async def close(self) -> None:
        """Stop; messages in hand go back too."""
        await self._consumer.close()

    def __aiter__(self) -> "Deliveries":
        return self

    async def __anext__(self) -> Message:
        if not self._opened:
            await self.open()
        message = await self._consumer.take()
        if message is None:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> "Deliveries":
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._opened and not self._consumer.inbox.closing:
            self._connection.call_soon(self._consumer.leave_when_settled)
