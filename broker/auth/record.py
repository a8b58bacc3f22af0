"""What is kept of a principal, as the bytes of one key. Floor 2."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.auth.grant import Grant, parse_grant
from broker.auth.token import Token


@dataclass(frozen=True, slots=True)
class Record:
    """Grants, tokens by id, and the hash of a password (None: there is none)."""

    grants: tuple[Grant, ...] = ()
    tokens: Mapping[str, Token] = field(default_factory=dict)
    password: str | None = None

    def __bool__(self) -> bool:
        return bool(self.grants or self.tokens or self.password)


def pack_record(record: Record) -> bytes:
    """As JSON: an operator may have to read it."""
    tokens = {
        t.id: {"digest": t.digest.hex(), "created_at": t.created_at, "expires_at": t.expires_at}
        for t in record.tokens.values()
    }
    values = {"grants": list(map(str, record.grants)), "tokens": tokens, "password": record.password}
    return json.dumps(values).encode()


def unpack_record(data: bytes) -> Record:
    """Raises ValueError, KeyError or BrokerError when it is none."""
    values = json.loads(data)
    return Record(
        tuple(map(parse_grant, values["grants"])),
        {token_id: _token(token_id, entry) for token_id, entry in values["tokens"].items()},
        values["password"],
    )


def _token(token_id: str, entry: Mapping[str, Any]) -> Token:
    return Token(token_id, bytes.fromhex(entry["digest"]), entry["created_at"], entry["expires_at"])
