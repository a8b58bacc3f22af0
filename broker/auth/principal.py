"""Principals and the one question asked of them. First form: loopback clients are `local` and may do everything;
tokens and grants come behind the same two names. Floor 2."""

from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    """What a principal may be allowed to do with a topic filter or a subscription name."""

    PUBLISH = "publish"
    CONSUME = "consume"
    MANAGE = "manage"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks; `name` goes to logs and audit."""

    name: str


LOCAL = Principal("local")
"""Any client on a loopback or unix socket when there is no `[auth]`."""

BROKER = Principal("$broker")
"""The daemon's own connectors."""


def authorize(principal: Principal, verb: Verb, resource: str) -> bool:  # noqa: ARG001  grants will ask for both
    """May `principal` do `verb` on `resource` (a topic, filter or subscription name)? Unknown ones may nothing."""
    return principal in (LOCAL, BROKER)
