"""The native protocol's requests: management and reading, for those who have time. PROTOCOL.md § Requests. Floor 4."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from typing import Any, TypeVar

from broker.auth.grant import STATUS, Verb
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.core.position import Start
from broker.core.spec import parse_spec, shown_values
from broker.engine.base import SubscriptionInfo
from broker.hub import Hub

MAX_LIMIT = 10_000
T = TypeVar("T")
Arguments = dict[str, Any]


class Requests:
    """Answers requests of one principal."""

    def __init__(self, hub: Hub, principal: Principal) -> None:
        self._hub = hub
        self._principal = principal
        self._verbs: dict[str, Callable[[Arguments], Awaitable[Any]]] = {
            "subscription.put": self._put,
            "subscription.get": self._get,
            "subscription.list": self._list,
            "subscription.delete": self._delete,
            "queue.pause": self._pause,
            "queue.resume": self._resume,
            "queue.peek": self._peek,
            "queue.purge": self._purge,
            "queue.redrive": self._redrive,
            "queue.purge_dead": self._purge_dead,
            "read": self._read,
            "topic.list": self._topics,
            "schedule.list": self._schedule,
            "schedule.cancel": self._cancel,
            "kv.get": self._kv_get,
            "kv.keys": self._kv_keys,
            "status": self._status,
        }

    async def answer(self, verb: str, arguments: Any) -> Any:
        """The result. Raises BrokerError."""
        work = self._verbs.get(verb)
        if work is None:
            raise BrokerError(Code.BAD_REQUEST, f"no verb {verb!r}; there are {', '.join(self._verbs)}")
        if not isinstance(arguments, dict):
            raise BrokerError(Code.BAD_REQUEST, "arguments must be a map")
        return await work(arguments)

    async def _put(self, arguments: Arguments) -> Any:
        options = {k: v for k, v in arguments.items() if k != "name"}
        spec = parse_spec(_name(arguments), options)
        return {"created": await self._hub.put_subscription(self._principal, spec)}

    async def _get(self, arguments: Arguments) -> Any:
        return described(self._hub.subscription(self._principal, _name(arguments)))

    async def _list(self, arguments: Arguments) -> Any:
        return [described(info) for info in await self._hub.subscriptions(self._principal, *_page(arguments))]

    async def _delete(self, arguments: Arguments) -> Any:
        await self._hub.delete_subscription(self._principal, _name(arguments))
        return {}

    async def _pause(self, arguments: Arguments) -> Any:
        await self._hub.pause(self._principal, _name(arguments), paused=True)
        return {}

    async def _resume(self, arguments: Arguments) -> Any:
        await self._hub.pause(self._principal, _name(arguments), paused=False)
        return {}

    async def _peek(self, arguments: Arguments) -> Any:
        after = arguments.get("after", -1)
        if type(after) is not int or not -1 <= after < 1 << 63:
            raise BrokerError(Code.BAD_OPTION, "after is the offset of the last message of the page before")
        most = self._hub.limits.max_frame // 2
        return await self._hub.peek(self._principal, _name(arguments), _limit(arguments), after, most)

    async def _purge(self, arguments: Arguments) -> Any:
        return {"count": await self._hub.purge(self._principal, _name(arguments))}

    async def _redrive(self, arguments: Arguments) -> Any:
        return {"count": await self._hub.redrive(self._principal, _name(arguments), _limit(arguments))}

    async def _purge_dead(self, arguments: Arguments) -> Any:
        return {"count": await self._hub.purge_dead(self._principal, _name(arguments), _limit(arguments))}

    async def _read(self, arguments: Arguments) -> Any:
        start = Start.parse(arguments.get("from", "earliest"))
        max_bytes = arguments.get("max_bytes", 1 << 20)
        if type(max_bytes) is not int or not 0 < max_bytes <= self._hub.limits.max_frame // 2:
            raise BrokerError(Code.BAD_OPTION, f"max_bytes must be 1 to {self._hub.limits.max_frame // 2}")
        topics = arguments.get("topics") or ()
        if type(topics) is not tuple:
            raise BrokerError(Code.BAD_FILTER, "topics must be a list")
        page = await self._hub.read(self._principal, topics, start, _limit(arguments), max_bytes)
        return {
            "rows": page.rows,
            "position": f"{self._hub.engine.epoch}.{page.scanned}",
            "recovered": page.recovered,
        }

    async def _topics(self, arguments: Arguments) -> Any:
        return [asdict(topic) for topic in await self._hub.topics(self._principal, *_page(arguments))]

    async def _schedule(self, arguments: Arguments) -> Any:
        waiting = await self._hub.scheduled(self._principal, _limit(arguments))
        return [{"id": item.id, "due": item.due, "topic": item.topic} for item in waiting]

    async def _cancel(self, arguments: Arguments) -> Any:
        return {"cancelled": await self._hub.cancel(self._principal, _text(arguments, "id"))}

    async def _kv_get(self, arguments: Arguments) -> Any:
        return await self._hub.get_key(self._principal, arguments.get("key"))

    async def _kv_keys(self, arguments: Arguments) -> Any:
        prefix = arguments.get("prefix", "")
        if type(prefix) is not str:
            raise BrokerError(Code.BAD_REQUEST, "prefix must be text")
        return await self._hub.keys(self._principal, prefix, *_page(arguments))

    async def _status(self, _: Arguments) -> Any:
        self._hub.authorize(self._principal, Verb.CONSUME, STATUS)
        stats = self._hub.engine.stats()
        return {f.name: getattr(stats, f.name) for f in fields(stats) if f.name != "extra"}


def described(info: SubscriptionInfo) -> dict[str, Any]:
    """A subscription's settings, but for secrets, and counts as plain values."""
    counts = {name: getattr(info, name) for name in SubscriptionInfo.__dataclass_fields__ if name != "spec"}
    return {"name": info.spec.name, **shown_values(info.spec), **counts}


def _page(arguments: Arguments) -> tuple[str | None, int]:
    """Of a list by name: the name behind which to begin, and how many are wanted."""
    after = _text(arguments, "after") if "after" in arguments else None
    return after, _limit(arguments) if "limit" in arguments else MAX_LIMIT


def _name(arguments: Arguments) -> str:
    return _text(arguments, "name")


def _text(arguments: Arguments, key: str) -> str:
    value = arguments.get(key)
    if type(value) is not str:
        raise BrokerError(Code.BAD_REQUEST, f"{key} is missing or no text")
    return value


def _limit(arguments: Arguments) -> int:
    limit = arguments.get("limit", 100)
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise BrokerError(Code.BAD_OPTION, f"limit must be 1 to {MAX_LIMIT}")
    return limit
