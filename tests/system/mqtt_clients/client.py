"""What the tests of the MQTT door want of somebody else's client, whichever it is."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from tests.system.served import WITHIN

KEPT_SECONDS = 600


class Heard(NamedTuple):
    """A message that reached the application. `retain`: None where the client does not tell."""

    topic: str
    payload: str
    qos: int
    retain: bool | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """How to connect, and what to subscribe to. `version`: 4 is MQTT 3.1.1. `kept`: the session outlives the
    connection. `will`: topic and payload, with QoS 1."""

    port: int
    client_id: str
    version: int
    kept: bool = False
    will: tuple[str, str] | None = None
    username: str | None = None
    password: str | None = None
    filters: Sequence[tuple[str, int]] = ()


class RefusedError(Exception):
    """The client says that the server did not let it in."""


class Client(ABC):
    """One connection. Use it as a context: `opened` to `close`."""

    missing: ClassVar[str] = ""
    """Why it cannot be tried here."""
    door: ClassVar[str] = "mqtt"
    """Whose port it connects to."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()

    @abstractmethod
    async def open(self) -> None:
        """Connect and subscribe; returns when both were answered. Raises RefusedError."""

    @abstractmethod
    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        """Returns when it was answered, if it is to be."""

    @abstractmethod
    async def close(self) -> None:
        """Take leave, if still connected, and leave nothing behind."""

    async def __aenter__(self) -> "Client":
        try:
            async with asyncio.timeout(WITHIN):
                await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(WITHIN):
            await self.close()

    async def hears(self, count: int = 1) -> list[Heard]:
        """So many messages, in the order in which they came."""
        async with asyncio.timeout(WITHIN):
            return [await self.heard.get() for _ in range(count)]
