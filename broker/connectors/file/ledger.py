"""What a drop folder has published, in the engine's key/value: one entry per content.

An entry is written in the transaction of the rows it speaks of, so after a crash it says exactly how far the file got.
It is found by the content's hash, never by name or inode, which are used again. Floor 4.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass

from broker.auth.principal import BROKER
from broker.engine.base import Set
from broker.hub import Hub

_NAMESPACE = uuid.UUID("5b9a3f0e-7c5d-5f0a-9c53-5d0e5a3c8f11")
_FORGET_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """How far the publishing of a content got: `rows` of `total`, under which claim and name, and when (`at`, unix
    ms). `revision` is the key's, 0 when nothing is written yet."""

    claim: str
    name: str
    rows: int
    total: int
    at: int
    revision: int = 0

    @property
    def done(self) -> bool:
        """Everything is in the log. An entry is written for an empty file too."""
        return self.revision > 0 and self.rows >= self.total

    def pack(self) -> bytes:
        """As stored; the revision is the engine's."""
        values = {"claim": self.claim, "name": self.name, "rows": self.rows, "total": self.total, "at": self.at}
        return json.dumps(values).encode()


def identity_of(feed: str, sha256: str, claim: str = "") -> str:
    """What a content is known by: by itself, or (with `claim`) as one more copy that is to be published again."""
    return hashlib.sha256(f"{feed}\0{sha256}\0{claim}".encode()).hexdigest()


def row_id(identity: str, number: int) -> str:
    """The id of a row's message: the same however often the row is read."""
    return str(uuid.uuid5(_NAMESPACE, f"{identity}:{number}"))


class Ledger:
    """The entries of one folder."""

    def __init__(self, hub: Hub, feed: str) -> None:
        self._hub = hub
        self._prefix = f"drop/{feed}/"

    def key(self, identity: str) -> str:
        """Where the entry of an identity is."""
        return self._prefix + identity

    async def find(self, identity: str) -> Entry | None:
        """The entry of an identity."""
        return await self._get(self.key(identity))

    async def _get(self, key: str) -> Entry | None:
        found = await self._hub.engine.get(key)
        return None if found is None else Entry(**json.loads(found[0]), revision=found[1])

    async def forget(self, before: int) -> int:
        """Drop entries last written before this time (unix ms); returns how many."""
        old: list[Set] = []
        after: str | None = None
        while keys := await self._hub.engine.keys(self._prefix, after):
            after = keys[-1]
            for key in keys:
                entry = await self._get(key)
                if entry is not None and entry.at < before:
                    old.append(Set(key, None))
        for at in range(0, len(old), _FORGET_AT_ONCE):
            await self._hub.publish(BROKER, [], sets=old[at : at + _FORGET_AT_ONCE])
        return len(old)
