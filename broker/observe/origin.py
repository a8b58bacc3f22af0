"""Where the work at hand was asked for: the door, the client's address, the request. The door says it once, who writes
it down (the audit trail) asks for it, and nobody between has to pass it on. Floor 1."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


class Origin(Protocol):
    """A request, or a connection that has one at a time."""

    @property
    def door(self) -> str:
        """`native`, `http`, …"""

    @property
    def address(self) -> str:
        """The client's, without a port; `unix` on a unix socket."""

    @property
    def request_id(self) -> str:
        """What the answer and the access log call it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a connection that has many at a time."""

    door: str
    address: str
    request_id: str


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
