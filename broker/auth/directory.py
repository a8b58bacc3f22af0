"""All principals with their grants, tokens and passwords: on disk as one key each, in memory for every question.

A change is committed first and then takes effect: whoever depends on it (readers, open connections) hears of it in the
same breath. Floor 2.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from broker.auth.grant import EVERYTHING, Grant
from broker.auth.identity import Identity
from broker.auth.principal import Principal, check_principal_name
from broker.auth.record import Record, pack_record, unpack_record
from broker.auth.token import Token, make_token, split_token
from broker.core.errors import BrokerError, Code

log = logging.getLogger(__name__)
REVOKED, EXPIRED = "the token was revoked", "the token has expired"
CHANGED = "the password was changed or removed"


class Store(Protocol):
    """Where records are kept, by name."""

    async def load(self) -> Mapping[str, bytes]:
        """All of them."""

    async def save(self, name: str, value: bytes | None) -> None:
        """On disk when it returns; None deletes. Raises BrokerError."""


@dataclass(slots=True)
class Account:
    """A principal, what is kept of it, and its identities: one per token, and one for its password."""

    principal: Principal
    record: Record = field(default_factory=Record)
    by_token: dict[str, Identity] = field(default_factory=dict)
    by_password: Identity | None = None


class Directory:
    """See the module. `wall`: unix seconds."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall
        self._accounts: dict[str, Account] = {}
        self._owners: dict[str, Account] = {}  # by id of a token
        self._changing = asyncio.Lock()
        self.regranted: list[Callable[[Principal], None]] = []
        """Told when a principal's grants have changed."""
        self.ended: list[Callable[[Identity], None]] = []
        """Told when an identity has ended; `ended` in it says why."""

    async def load(self) -> None:
        """Take up what is on disk. Raises BrokerError for a record that cannot be read."""
        for name, data in (await self._store.load()).items():
            try:
                record = unpack_record(data)
            except (ValueError, KeyError, TypeError, AttributeError, BrokerError) as error:
                raise BrokerError(Code.INTERNAL, f"the record of principal {name!r} cannot be read: {error}") from None
            self._apply(name, record)

    # Questions

    def accounts(self) -> list[Account]:
        """Of all principals that are kept, by name."""
        return [account for _, account in sorted(self._accounts.items()) if account.record]

    def find(self, name: str) -> Account | None:
        """The account of this principal, if anything is kept of it."""
        account = self._accounts.get(name)
        return account if account is not None and account.record else None

    def account(self, name: str) -> Account:
        """The same. Raises NOT_FOUND."""
        account = self.find(name)
        if account is None:
            raise BrokerError(Code.NOT_FOUND, f"no principal {name[:100]!r}")
        return account

    def principal(self, name: str) -> Principal:
        """The one object of this principal, whether anything is kept of it or not."""
        return self._account(name).principal

    def owner(self, token_id: str) -> Account:
        """Whose token that is. Raises NOT_FOUND."""
        account = self._owners.get(token_id)
        if account is None:
            raise BrokerError(Code.NOT_FOUND, f"no token {token_id[:100]!r}")
        return account

    def identify(self, text: str) -> Identity:
        """Whom a token speaks for. Raises UNAUTHENTICATED, which does not tell an unknown token from a revoked one."""
        token_id, secret = split_token(text)
        account = self._owners.get(token_id)
        if account is None or not account.record.tokens[token_id].holds(secret):
            raise BrokerError(Code.UNAUTHENTICATED, "the token is wrong, or was revoked")
        if account.record.tokens[token_id].expired(self._now()):
            raise BrokerError(Code.UNAUTHENTICATED, EXPIRED)
        identity = account.by_token[token_id]
        if identity.ended is not None:  # the clock was set back: it holds again, and shall end again
            identity = account.by_token[token_id] = _identity_of(account, token_id)
        return identity

    def has_admin(self, mapped: frozenset[str] = frozenset()) -> bool:
        """Is there somebody who may do everything and can prove it? `mapped`: principals that certificates speak
        for."""
        now = self._now()
        for name, account in self._accounts.items():
            record = account.record
            proven = name in mapped or record.password or any(not t.expired(now) for t in record.tokens.values())
            if proven and EVERYTHING in record.grants:
                return True
        return False

    # Changes

    async def create_token(self, name: str, lifetime: int | None = None) -> tuple[str, Token]:
        """A new token of this principal, for `lifetime` ms or until revoked; its text is known here and never again.
        Raises BAD_OPTION."""
        now = self._now()
        text, token = make_token(now, None if lifetime is None else now + lifetime)
        async with self._changing:
            record = self._record(name)
            await self._save(name, replace(record, tokens={**record.tokens, token.id: token}))
        log.info("token created", extra={"principal": name, "token_id": token.id, "expires_at": token.expires_at})
        return text, token

    async def revoke(self, token_id: str) -> None:
        """End a token now; connections that it opened are closed. Raises NOT_FOUND."""
        async with self._changing:
            account = self.owner(token_id)
            tokens = {i: token for i, token in account.record.tokens.items() if i != token_id}
            await self._save(account.principal.name, replace(account.record, tokens=tokens))
        log.info("token revoked", extra={"principal": account.principal.name, "token_id": token_id})

    async def add_grants(self, name: str, grants: tuple[Grant, ...]) -> bool:
        """Allow more; False when it was allowed in these words before. Raises BAD_OPTION."""
        async with self._changing:
            record = self._record(name)
            more = tuple(dict.fromkeys(record.grants + grants))
            if more == record.grants:
                return False
            await self._save(name, replace(record, grants=more))
        log.info("grants added", extra={"principal": name, "grants": list(map(str, grants))})
        return True

    async def remove_grant(self, name: str, grant: Grant) -> None:
        """Allow less: readers that are no longer covered are ended. Raises NOT_FOUND when there is no grant in these
        words."""
        async with self._changing:
            record = self._record(name)
            if grant not in record.grants:
                raise BrokerError(Code.NOT_FOUND, f"{name} has no grant {str(grant)!r}")
            await self._save(name, replace(record, grants=tuple(g for g in record.grants if g != grant)))
        log.info("grant removed", extra={"principal": name, "grant": str(grant)})

    async def set_password(self, name: str, stored: str) -> None:
        """Give it a password by its hash, or another one; connections of the old one are closed. Raises BAD_OPTION."""
        async with self._changing:
            await self._save(name, replace(self._record(name), password=stored))
        log.info("password set", extra={"principal": name})

    async def remove(self, name: str) -> None:
        """Forget a principal with its tokens, password and grants. Raises NOT_FOUND."""
        async with self._changing:
            self.account(name)
            await self._save(name, Record())
        log.info("principal removed", extra={"principal": name})

    def expire(self) -> None:
        """End the identities of tokens whose time is over; to be called about every second."""
        now = self._now()
        for account in list(self._accounts.values()):
            for token in account.record.tokens.values():
                identity = account.by_token[token.id]
                if token.expired(now) and identity.ended is None:
                    self.end(identity, EXPIRED)

    def end(self, identity: Identity, reason: str) -> None:
        """This identity no longer holds."""
        identity.ended = reason
        for watcher in self.ended:
            watcher(identity)

    # Within

    def _now(self) -> int:
        return int(self._wall() * 1000)

    def _account(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(Principal(name))
        return account

    def _record(self, name: str) -> Record:
        account = self._accounts.get(check_principal_name(name))
        return account.record if account is not None else Record()

    async def _save(self, name: str, record: Record) -> None:
        """On disk and in memory, or in neither: who is cancelled in the midst of it waits for its end all the same."""
        saving = asyncio.ensure_future(self._store.save(name, pack_record(record) if record else None))
        cancelled: asyncio.CancelledError | None = None
        while not saving.done():
            try:
                await asyncio.wait((saving,))
            except asyncio.CancelledError as error:
                cancelled = error
        saving.result()
        self._apply(name, record)
        if cancelled is not None:
            raise cancelled

    def _apply(self, name: str, record: Record) -> None:
        """The new record counts from here on; tell who depends on what went."""
        account = self._account(name)
        before, account.record = account.record, record
        for token_id in before.tokens.keys() - record.tokens.keys():
            del self._owners[token_id]
            self.end(account.by_token.pop(token_id), REVOKED)
        for token_id in record.tokens.keys() - before.tokens.keys():
            self._owners[token_id] = account
            account.by_token[token_id] = _identity_of(account, token_id)
        if record.password != before.password:
            if account.by_password is not None:
                self.end(account.by_password, CHANGED)
            account.by_password = Identity(account.principal, "password") if record.password else None
        if record.grants != before.grants:
            account.principal.regrant(record.grants)
            for watcher in self.regranted:
                watcher(account.principal)


def _identity_of(account: Account, token_id: str) -> Identity:
    return Identity(account.principal, f"token {token_id}")
