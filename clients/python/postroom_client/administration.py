"""What operators and start-up code ask of a broker: subscriptions, queues, replays, keys (PROTOCOL.md, *Requests*)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from postroom_client.connection import Connection
from postroom_client.message import LoggedMessage

PAGE = 1_000
"""Entries of a list asked for at a time."""


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the log. `position`: read on from here. `recovered` False: what was asked for begins earlier than what
    is still there."""

    messages: list[LoggedMessage]
    position: str
    recovered: bool


class Administration:
    """The verbs; `Client` has them all. Each raises the broker's refusal as PostroomError."""

    _connection: Connection

    async def put_subscription(
        self, name: str, topics: Iterable[str] | str, *, kind: str = "queue", **options: Any
    ) -> bool:
        """Create or change one; True when created. `options`: from_, lease, retry, ordered, fair, single_active,
        max_messages, max_bytes, overflow, max_deliveries, webhook; durations as text ("30s") or seconds."""
        settings = {key.rstrip("_"): value for key, value in options.items() if value is not None}
        settings |= {"name": name, "kind": kind, "topics": [topics] if isinstance(topics, str) else list(topics)}
        return bool((await self._ask("subscription.put", **settings))["created"])

    async def subscription(self, name: str) -> dict[str, Any]:
        """Settings and counts."""
        return dict(_listed(await self._ask("subscription.get", name=name)))

    async def subscriptions(self) -> list[dict[str, Any]]:
        """The same of all."""
        return [_listed(each) for each in await self._pages("subscription.list", lambda each: each["name"])]

    async def delete_subscription(self, name: str) -> None:
        """Its consumers are detached, its progress is forgotten."""
        await self._ask("subscription.delete", name=name)

    async def pause(self, name: str) -> None:
        """Hand out nothing until `resume`; survives a restart of the broker."""
        await self._ask("queue.pause", name=name)

    async def resume(self, name: str) -> None:
        """Hand out again."""
        await self._ask("queue.resume", name=name)

    async def peek(self, name: str, limit: int = 10) -> list[LoggedMessage]:
        """The oldest outstanding messages, without touching them; fewer than `limit` when they are large."""
        return self._messages(await self._ask("queue.peek", name=name, limit=limit))

    async def purge(self, name: str) -> int:
        """Settle all that is outstanding and not leased; how many."""
        return int((await self._ask("queue.purge", name=name))["count"])

    async def redrive(self, name: str, limit: int = 10_000) -> int:
        """Put up to `limit` dead letters of this queue back into it, oldest first; how many."""
        return int((await self._ask("queue.redrive", name=name, limit=limit))["count"])

    async def purge_dead(self, name: str, limit: int = 10_000) -> int:
        """Delete up to `limit` dead letters of this queue for good, oldest first; how many."""
        return int((await self._ask("queue.purge_dead", name=name, limit=limit))["count"])

    async def read(
        self,
        topics: Iterable[str] | str,
        from_: str | int = "earliest",
        limit: int = 1000,
        max_bytes: int | None = None,
    ) -> Page:
        """A piece of the log: messages that match, from a place on."""
        filters = [topics] if isinstance(topics, str) else list(topics)
        arguments = {"topics": filters, "from": from_, "limit": limit, "max_bytes": max_bytes}
        result = await self._ask("read", **{name: value for name, value in arguments.items() if value is not None})
        return Page(self._messages(result["rows"]), result["position"], result["recovered"])

    async def topics(self) -> list[dict[str, Any]]:
        """Every topic with messages: name, messages, bytes."""
        return list(await self._pages("topic.list", lambda each: each["name"]))

    async def scheduled(self, limit: int = 100) -> list[dict[str, Any]]:
        """What waits for its time, soonest first: id, due (unix ms), topic."""
        return list(await self._ask("schedule.list", limit=limit))

    async def cancel(self, schedule_id: str) -> bool:
        """True when it waited and now never comes."""
        return bool((await self._ask("schedule.cancel", id=schedule_id))["cancelled"])

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision) of a key, or None. Write with `transaction().set`."""
        found = await self._ask("kv.get", key=key)
        return None if found is None else (found[0], found[1])

    async def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with `prefix`."""
        return list(await self._pages("kv.keys", str, prefix=prefix))

    async def status(self) -> dict[str, Any]:
        """The broker's numbers."""
        return dict(await self._ask("status"))

    async def _ask(self, verb: str, **arguments: Any) -> Any:
        self._connection.check()
        return await self._connection.requests.request(verb, arguments or None)

    async def _pages(self, verb: str, name: Callable[[Any], str], **arguments: Any) -> list[Any]:
        """All of a list by name that may be too long for one answer."""
        found: list[Any] = []
        while True:
            page = await self._ask(verb, limit=PAGE, **arguments)
            found += page
            if len(page) < PAGE:
                return found
            arguments["after"] = name(page[-1])

    def _messages(self, rows: Iterable[Any]) -> list[LoggedMessage]:
        epoch = self._connection.outbox.epoch
        return [LoggedMessage(row, epoch) for row in rows]


def _listed(value: Any) -> Any:
    """Arrays of the wire as lists, which is what people expect of settings."""
    if isinstance(value, tuple):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value
