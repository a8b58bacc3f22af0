"""Whom doors ask: who is that? With `[auth]` a `Strict` doorkeeper, without it a `Trusting` one. Floor 2."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from broker.auth.directory import Directory
from broker.auth.identity import LOCALLY, Credentials, Identity
from broker.auth.options import AuthOptions, san
from broker.auth.password import Passwords
from broker.auth.principal import is_principal_name
from broker.core.errors import BrokerError, Code

UNMAPPED = "the certificate is no longer in [auth.certificates]"


class Doorkeeper(Protocol):
    """Both kinds."""

    def greet(self, *, here: bool, names: Sequence[str]) -> Identity | None:
        """Who a connection is from the start: from this machine or not (`here`), with a verified certificate for these
        names (`URI:…`, `DNS:…`) or without. None: it has to say."""

    def check(self, greeted: Identity | None, credentials: Credentials | None) -> Identity | None:
        """Who it is with these credentials. None: there is a password, which takes time: await `prove`. Raises
        UNAUTHENTICATED, FORBIDDEN."""

    async def prove(self, credentials: Credentials, address: str) -> Identity:
        """Who has this password. Raises UNAUTHENTICATED, RATE_LIMITED."""


class Trusting:
    """Without `[auth]`: who is on this machine is `local`, whatever else they say; others are nobody."""

    def greet(self, *, here: bool, names: Sequence[str]) -> Identity | None:
        """See Doorkeeper."""
        return LOCALLY if here else None

    def check(self, greeted: Identity | None, credentials: Credentials | None) -> Identity | None:
        """See Doorkeeper."""
        if greeted is None:
            raise BrokerError(Code.FORBIDDEN, "only clients on this machine are served until [auth] is configured")
        return greeted

    async def prove(self, credentials: Credentials, address: str) -> Identity:
        """Nobody is asked to."""
        raise BrokerError(Code.UNAUTHENTICATED)


class Strict:
    """With `[auth]`: nobody is anybody without credentials. `clock`: monotonic seconds."""

    def __init__(self, directory: Directory, options: AuthOptions, clock: Callable[[], float]) -> None:
        self.passwords = Passwords(options.failed_passwords, clock)
        self._directory = directory
        self._principals: Mapping[str, str] = options.certificates
        self._certified: dict[str, Identity] = {}  # by name in a certificate

    def close(self) -> None:
        """Let go of threads."""
        self.passwords.close()

    def take_up(self, options: AuthOptions) -> None:
        """Another configuration counts; identities by certificates that are no longer mapped so have ended."""
        self.passwords.allow(options.failed_passwords)
        self._principals = options.certificates
        for name, identity in list(self._certified.items()):
            if self._principals.get(name) != identity.principal.name:
                del self._certified[name]
                self._directory.end(identity, UNMAPPED)

    def greet(self, *, here: bool, names: Sequence[str]) -> Identity | None:
        """See Doorkeeper. A certificate whose names stand for several principals stands for none."""
        found = {self._principals[name]: name for name in map(san, names) if name in self._principals}
        if len(found) != 1:
            return None
        ((principal, name),) = found.items()
        if name not in self._certified:
            self._certified[name] = Identity(self._directory.principal(principal), f"certificate {name}")
        return self._certified[name]

    def check(self, greeted: Identity | None, credentials: Credentials | None) -> Identity | None:
        """See Doorkeeper."""
        if credentials is None:
            if greeted is None:
                raise BrokerError(Code.UNAUTHENTICATED, "send a token; an admin makes one: postroom token create NAME")
            return greeted.valid()
        if credentials.token is None:
            return None
        return self._directory.identify(credentials.token)

    async def prove(self, credentials: Credentials, address: str) -> Identity:
        """See Doorkeeper."""
        wrong = BrokerError(Code.UNAUTHENTICATED, "the user or the password is wrong")
        if not is_principal_name(credentials.user):  # whatever it is, and however long: it is not remembered
            raise wrong
        account = self._directory.find(credentials.user)
        stored = account.record.password if account is not None else None
        right = await self.passwords.right(credentials.user, credentials.password, stored, address)
        # It may have been changed meanwhile.
        if not right or account is None or account.by_password is None or account.record.password != stored:
            raise wrong
        return account.by_password
