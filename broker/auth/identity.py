"""A principal as proven by one credential, and credentials as clients send them. Floor 2."""

from dataclasses import dataclass

from broker.auth.principal import LOCAL, Principal
from broker.auth.token import PREFIX
from broker.core.errors import BrokerError, Code


@dataclass(slots=True, eq=False)
class Identity:
    """Who a connection speaks for. `how` it was proven, for people: `token 5f0c…`, `password`, `certificate …`.

    There is one object per credential, so that all connections of it are found; `ended` says why it no longer holds."""

    principal: Principal
    how: str
    ended: str | None = None

    def valid(self) -> "Identity":
        """Itself. Raises UNAUTHENTICATED with the reason when it has ended."""
        if self.ended is not None:
            raise BrokerError(Code.UNAUTHENTICATED, self.ended)
        return self


LOCALLY = Identity(LOCAL, "loopback")
"""All clients of this machine when there is no `[auth]`."""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a client sent to prove who it is: a token, or a user's name and password. Never shown or logged."""

    token: str | None = None
    user: str = ""
    password: str = ""


def credentials_of(user: str, password: str) -> Credentials:
    """Of a client that can send nothing but user and password: a token may stand in the password's place."""
    return Credentials(token=password) if password.startswith(f"{PREFIX}_") else Credentials(None, user, password)
