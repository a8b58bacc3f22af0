"""Who reads on this client: consumers and streams by their number, attached anew on every connection."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from postroom_client import wire
from postroom_client.errors import PostroomError, refusal
from postroom_client.waiting import reject, reject_all, resolve


class Reader(Protocol):
    """A Consumer or a Stream."""

    number: int

    @property
    def busy(self) -> bool:
        """Is something in hand that is still to be settled?"""

    def attach_frame(self) -> tuple[Any, ...]:
        """ATTACH."""

    def attached(self, info: Any, /) -> list[tuple[Any, ...]]:
        """ATTACHED came; returns what to send first."""

    def delivered(self, rows: Sequence[Any], tries: Any, /) -> None:
        """DELIVER came."""

    def detached(self, error: PostroomError, /) -> bool:
        """The broker let go of it. True: attach again."""

    def lost(self, epoch_changed: bool = False, /) -> None:
        """The connection broke, or came back on another log."""

    def pause(self) -> None:
        """The broker is stopping: begin nothing more on this connection."""

    def frames(self, now: float, /) -> list[tuple[Any, ...]]:
        """What it has to tell the broker."""


class Readers:
    """They belong to those who read: one that is dropped without being closed vanishes from here.

    `send` sends one frame behind what waits, or drops it while there is no connection."""

    def __init__(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        self._send = send
        self._number = 0
        self._all: WeakValueDictionary[int, Reader] = WeakValueDictionary()
        self._ready: set[int] = set()  # attached on the connection of now
        self._dirty: dict[int, Reader] = {}
        self._attaching: dict[int, asyncio.Future[None]] = {}
        self._detaching: dict[int, asyncio.Future[None]] = {}

    def number(self) -> int:
        """A fresh number."""
        self._number += 1
        return self._number

    def touch(self, reader: Reader) -> None:
        """It has something to tell the broker."""
        self._dirty[reader.number] = reader

    def gather(self, now: float) -> list[tuple[Any, ...]]:
        """What all have to tell; those that are not attached keep it."""
        if not self._dirty:
            return []
        dirty, self._dirty = self._dirty, {}
        frames: list[tuple[Any, ...]] = []
        for number, reader in dirty.items():
            if number in self._ready:
                frames.extend(reader.frames(now))
        return frames

    # Coming and going

    async def attach(self, reader: Reader) -> None:
        """Returns when the broker has answered. Raises what it refuses the reader for."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._all[reader.number] = reader
        self._attaching[reader.number] = waiter
        self._send(reader.attach_frame())
        try:
            await waiter
        except asyncio.CancelledError:
            self.forget(reader.number)
            raise

    async def detach(self, reader: Reader) -> None:
        """Returns when the broker has let go of it."""
        if reader.number not in self._ready:
            self.forget(reader.number)
            return
        waiter = self._detaching[reader.number] = asyncio.get_running_loop().create_future()
        self.forget(reader.number)
        await waiter

    def forget(self, number: int) -> None:
        """The reader is gone; the broker is told."""
        known = self._all.pop(number, None) is not None or number in self._ready
        self._attaching.pop(number, None)
        if known:
            self._send((wire.DETACH, number))
        self._ready.discard(number)
        self._dirty.pop(number, None)

    # What the broker says

    def on_deliver(self, frame: wire.Frame) -> None:
        """DELIVER."""
        _, number, _, rows, tries = wire.padded(frame, 5)
        if rows and min(map(len, rows)) < 5:
            raise ValueError("a row has five elements")
        reader = self._all.get(number)
        if reader is not None:
            reader.delivered(rows, tries)

    def on_attached(self, frame: wire.Frame) -> None:
        """ATTACHED: it goes on where it was."""
        _, number, info = wire.padded(frame, 3)
        reader = self._all.get(number)
        if reader is None:
            return
        self._ready.add(number)
        for first in reader.attached(info or {}):
            self._send(first)
        if number in self._attaching:
            resolve(self._attaching.pop(number))

    def on_detached(self, frame: wire.Frame) -> None:
        """DETACHED: asked for, refused, or let go."""
        _, number, code, text = wire.padded(frame, 4)
        if number in self._detaching:
            resolve(self._detaching.pop(number))
        reader = self._all.get(number)
        if reader is None or code is None:
            return
        self._ready.discard(number)
        error = refusal(code, text)
        if code == "shutting_down":  # it goes on with the next connection
            reader.lost()
        elif number in self._attaching:
            del self._all[number]
            reject(self._attaching.pop(number), error)
        elif reader.detached(error):
            self._send(reader.attach_frame())
        else:
            del self._all[number]

    # The connection

    def lost(self) -> None:
        """It broke: everybody is detached."""
        self._ready.clear()
        self._dirty.clear()
        for reader in list(self._all.values()):
            reader.lost()
        for waiter in self._detaching.values():
            resolve(waiter)
        self._detaching.clear()

    def again(self, epoch_changed: bool) -> list[tuple[Any, ...]]:
        """Frames that attach everybody on a new connection."""
        readers = list(self._all.values())
        for reader in readers:
            reader.lost(epoch_changed)
        return [reader.attach_frame() for reader in readers]

    def fail(self, error: PostroomError) -> None:
        """There will be no other connection."""
        for reader in list(self._all.values()):
            reader.detached(error)
        self._all.clear()
        reject_all(self._attaching.values(), error)
        self.lost()

    # A stopping broker

    def pause(self) -> None:
        """Nobody begins anything more on this connection."""
        for reader in list(self._all.values()):
            reader.pause()

    @property
    def busy(self) -> bool:
        """Is anything in hand anywhere?"""
        return any(reader.busy for reader in list(self._all.values()))
