"""One prefix of the engine's key/value store, as a small map of names to bytes. Floor 2."""

import asyncio
from collections.abc import Mapping

from broker.engine.base import Engine, Receipt, Set, Unit


class Keyspace:
    """All keys that begin with `prefix`; names are what follows it."""

    def __init__(self, engine: Engine, prefix: str) -> None:
        self._engine = engine
        self._prefix = prefix

    async def load(self) -> Mapping[str, bytes]:
        """All of them."""
        found = await self._engine.items(self._prefix)
        return {key.removeprefix(self._prefix): value for key, value, _ in found}

    async def save(self, name: str, value: bytes | None) -> None:
        """On disk when it returns; None deletes. Raises BrokerError."""
        answered: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def done(receipt: Receipt) -> None:
            if not answered.done():
                answered.set_result(receipt)

        sets = [Set(self._prefix + name, value)]
        self._engine.commit(Unit(done=done, sender=self, sets=sets, size=len(value or b"")))
        receipt = await answered
        if receipt.error is not None:
            raise receipt.error
