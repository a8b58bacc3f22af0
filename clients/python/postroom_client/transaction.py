"""Publish, settle and set keys in one commit: all or nothing (UNIT of PROTOCOL.md)."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from types import TracebackType
from typing import Any

from postroom_client.batch import Draft, draft_size
from postroom_client.draft import milliseconds
from postroom_client.errors import LeaseLost
from postroom_client.message import Message
from postroom_client.receipt import Receipt

Reason = tuple[str, int | None, str | None]


class Transaction:
    """`async with client.transaction() as t:` gathers; leaving the block without an exception commits, and raises what
    the broker refuses the whole for. `receipt` is of the first message, once committed."""

    def __init__(
        self,
        draft: Callable[..., Draft],
        commit: Callable[[dict[str, Any], int], Coroutine[Any, Any, Receipt]],
    ) -> None:
        self.receipt: Receipt | None = None
        self._draft = draft
        self._commit = commit
        self._publishes: list[Draft] = []
        self._settles: dict[tuple[int, Reason], list[int]] = {}
        self._sets: list[tuple[Any, ...]] = []
        self._messages: list[Message] = []

    def publish(self, topic: str, body: Any, **options: Any) -> None:
        """As `Client.publish`, in this transaction."""
        self._publishes.append(self._draft(topic, body, **options))

    def ack(self, message: Message) -> None:
        """Done, if the transaction commits."""
        self._settle(message, ("ack", None, None))

    def retry(self, message: Message, delay: float | timedelta | None = None, error: str | None = None) -> None:
        """Again later."""
        self._settle(message, ("retry", None if delay is None else milliseconds(delay, "delay"), error))

    def reject(self, message: Message, error: str | None = None) -> None:
        """To the dead letters."""
        self._settle(message, ("reject", None, error))

    def set(self, key: str, value: bytes | None, expect: int | None = None) -> None:
        """Write (None: delete) a key; `expect` is the revision it must have, 0: none."""
        self._sets.append((key, value) if expect is None else (key, value, expect))

    def _settle(self, message: Message, reason: Reason) -> None:
        self._settles.setdefault((message.consumer.number, reason), []).append(message.offset)
        self._messages.append(message)

    async def commit(self) -> Receipt | None:
        """What leaving the block does. None when there was nothing to do."""
        unit = self._unit()
        if not unit:
            return None
        if not all(message.in_hand for message in self._messages):
            raise LeaseLost("a message of the transaction has been settled already")
        size = sum(draft_size(draft) for draft in self._publishes) + 64 * len(self._messages)
        size += sum(len(key) + len(value or b"") + 16 for key, value, *_ in self._sets)
        self.receipt = await self._commit(unit, size)
        for message in self._messages:
            if message.in_hand:
                message.consumer.surrender(message)
        return self.receipt

    def _unit(self) -> dict[str, Any]:
        settles = []
        for (number, (outcome, delay, error)), offsets in self._settles.items():
            options = {name: value for name, value in (("delay", delay), ("error", error)) if value is not None}
            settles.append((number, outcome, offsets, options) if options else (number, outcome, offsets))
        parts = {"publish": self._publishes, "settle": settles, "set": self._sets}
        return {name: part for name, part in parts.items() if part}

    async def __aenter__(self) -> "Transaction":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.commit()
