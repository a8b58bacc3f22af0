"""All workers of a client, run together until told to stop, by a call or a signal, or until one cannot go on."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from postroom_client.consumer import Consumer
from postroom_client.worker import Worker

Hire = Callable[[Worker], Coroutine[Any, Any, Consumer]]
"""Puts the worker's subscription where it is to, and attaches a consumer."""


class Crew:
    """`stop` and a first signal end it in order, `hurry` and a second one at once."""

    def __init__(self, workers: Sequence[Worker], hire: Hire) -> None:
        self._workers = workers
        self._hire = hire
        self._consumers: list[Consumer] = []
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing more; asked again, wait for nothing more either."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self, grace: float, *, signals: bool) -> None:
        """Work until stopped; what is in hand then gets `grace` seconds, the rest is released. Raises what a worker
        ended with. Cancelled, it releases what is in hand at once."""
        caught = self._catch_signals() if signals else []
        tasks = [asyncio.create_task(self._work(worker)) for worker in self._workers]
        try:
            await self._first_of([self._stop.wait()], tasks)
            self._stop.set()
            for consumer in self._consumers:
                consumer.quiet()
            if tasks:
                everybody = asyncio.gather(*tasks, return_exceptions=True)
                await self._first_of([self._hurry.wait()], [everybody], grace)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number in caught:
                asyncio.get_running_loop().remove_signal_handler(number)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _work(self, worker: Worker) -> None:
        consumer = await self._hire(worker)
        self._consumers.append(consumer)
        if self._stop.is_set():
            consumer.quiet()
        try:
            await worker.run(consumer)
        finally:
            await consumer.close()

    async def _first_of(
        self,
        events: Sequence[Coroutine[Any, Any, Any]],
        others: "Sequence[asyncio.Future[Any]]",
        timeout: float | None = None,
    ) -> None:
        """Until one has happened or ended."""
        tasks = [asyncio.create_task(event) for event in events]
        try:
            await asyncio.wait([*tasks, *others], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _catch_signals(self) -> list[int]:
        if threading.current_thread() is not threading.main_thread():
            return []
        loop, caught = asyncio.get_running_loop(), []
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # a loop without signals: then `stop` is the way
                loop.add_signal_handler(number, self.stop)
                caught.append(number)
        return [int(number) for number in caught]
