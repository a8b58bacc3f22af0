"""Principals: their tokens, grants and passwords. All of it is for admins alone. Floor 4."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import Field, ValidationError

from broker.auth.directory import Account, Directory
from broker.auth.grant import parse_grant
from broker.auth.password import Passwords
from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import arrived, principal_of
from broker.protocols.http.models import Given, Moment, Shape, Span
from broker.protocols.http.operation import JSON, Answer, Body, Operation, Parameter, Tag, no_content, pages, path_part
from broker.protocols.http.paging import page
from broker.protocols.http.representation import answer, moment
from broker.protocols.http.router import Route


class Token(Shape):
    """A token as it is listed: the secret is not kept."""

    id: str
    created_at: Moment
    expires_at: Moment | None


class Principal(Shape):
    """Somebody who asks, and what it may. `password`: whether it has one."""

    name: str
    grants: list[str]
    tokens: list[Token]
    password: bool


class Principals(Shape):
    """A page; `next` goes into `after` for the one that follows."""

    principals: list[Principal]
    next: str | None


class NewToken(Given):
    """For how long; without it, until it is revoked."""

    lifetime: Span | None = None


class MadeToken(Shape):
    """`token` goes into `Authorization: Bearer TOKEN`."""

    token: str
    id: str
    principal: str
    expires_at: Moment | None


class GivenGrant(Given):
    """In words: `publish orders/#`, `consume subscription:mailer`, `admin`."""

    grant: str


class Password(Given):
    """Its hash is kept."""

    password: Annotated[str, Field(min_length=8, max_length=1024)]


M = TypeVar("M", bound=Given)
NAME = path_part("name", "Letters, digits, `.`, `_`, `-`, `@`; at most 128.", "billing")
TOKEN_ID = path_part("id", "What stands between the first and the second `_` of the token.", "5f0c2a91d7e4")
GRANT = Parameter("grant", "In the words in which it was given.", required=True, example="publish orders/#")
LIMIT, AFTER = pages("principals", 1_000, 1_000)

LIST = Operation(
    Tag.ACCESS, "List principals", {200: Answer("All, by name, without secrets.", Principals)}, "", (LIMIT, AFTER)
)
SHOW = Operation(Tag.ACCESS, "Show a principal", {200: Answer("Without secrets.", Principal)}, "", (NAME,))
REMOVE = Operation(
    Tag.ACCESS,
    "Remove a principal",
    no_content("Its tokens, password and grants are gone, its connections closed."),
    "",
    (NAME,),
)
CREATE_TOKEN = Operation(
    Tag.ACCESS,
    "Make a token",
    {201: Answer("The token is shown this once.", MadeToken)},
    "The principal need not be there before.",
    (NAME,),
    Body({JSON: NewToken}, required=False, example={"lifetime": "90d"}),
)
REVOKE = Operation(Tag.ACCESS, "Revoke a token", no_content("Over, and its connections closed."), "", (TOKEN_ID,))
ADD_GRANT = Operation(
    Tag.ACCESS,
    "Allow something",
    {200: Answer("The principal as it is now.", Principal)},
    "The principal need not be there before. README says what can be granted.",
    (NAME,),
    Body({JSON: GivenGrant}, example={"grant": "publish orders/#"}),
)
REMOVE_GRANT = Operation(
    Tag.ACCESS,
    "Take a grant back",
    no_content("Readers that it alone allowed are ended at once."),
    "",
    (NAME, GRANT),
)
SET_PASSWORD = Operation(
    Tag.ACCESS,
    "Set a password",
    no_content("Connections by an earlier one are closed."),
    "The principal need not be there before.",
    (NAME,),
    Body({JSON: Password}, example={"password": "correct horse battery"}),
)


class AccountRoutes:
    """See the module. They work without `[auth]` too, so that everybody has a token before it is turned on."""

    def __init__(self, hub: Hub, directory: Directory, passwords: Passwords) -> None:
        self._hub = hub
        self._directory = directory
        self._passwords = passwords

    def routes(self) -> list[Route]:
        """What this module serves."""
        path = "/v1/principals/{name}"
        return [
            Route("GET", "/v1/principals", self.list, "principals", LIST),
            Route("GET", path, self.show, "principal", SHOW),
            Route("DELETE", path, self.remove, "remove_principal", REMOVE),
            Route("POST", f"{path}/tokens", self.create_token, "create_token", CREATE_TOKEN),
            Route("POST", f"{path}/grants", self.add_grant, "add_grant", ADD_GRANT),
            Route("DELETE", f"{path}/grants", self.remove_grant, "remove_grant", REMOVE_GRANT),
            Route("PUT", f"{path}/password", self.set_password, "set_password", SET_PASSWORD),
            Route("DELETE", "/v1/tokens/{id}", self.revoke, "revoke_token", REVOKE),
        ]

    async def list(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers a page of all."""
        self._hub.authorize_admin(principal_of(request))
        accounts, query = self._directory.accounts(), request.query
        part, following = page(accounts, lambda a: a.principal.name, LIMIT.read(query), query.get("after"))
        return answer({"principals": list(map(account_values, part)), "next": following})

    async def show(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers one."""
        self._hub.authorize_admin(principal_of(request))
        return answer(account_values(self._directory.account(name)))

    async def remove(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers 204."""
        with self._done(request, "principal.remove", name):
            await self._directory.remove(name)
        return web.Response(status=204)

    async def create_token(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers 201 with the token, never shown again."""
        with self._done(request, "token.create", name) as entry:
            given = await _read(request, NewToken) if request.body_exists else NewToken()
            text, token = await self._directory.create_token(name, _lifetime(given.lifetime))
            entry["token_id"] = token.id
        made = {"token": text, "id": token.id, "principal": name, "expires_at": _moment(token.expires_at)}
        response = answer(made, 201)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def revoke(self, request: web.BaseRequest, token_id: str) -> web.StreamResponse:
        """Answers 204."""
        with self._done(request, "token.revoke", token_id) as entry:
            entry["of"] = self._directory.owner(token_id).principal.name
            await self._directory.revoke(token_id)
        return web.Response(status=204)

    async def add_grant(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers the principal."""
        with self._done(request, "grant.add", name) as entry:
            grant = parse_grant((await _read(request, GivenGrant)).grant)
            entry["grant"] = str(grant)
            await self._directory.add_grants(name, (grant,))
        return answer(account_values(self._directory.account(name)))

    async def remove_grant(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers 204."""
        with self._done(request, "grant.remove", name) as entry:
            if GRANT.name not in request.query:
                raise BrokerError(Code.BAD_REQUEST, "say which one: ?grant=publish%20orders/%23")
            grant = parse_grant(request.query[GRANT.name])
            entry["grant"] = str(grant)
            await self._directory.remove_grant(name, grant)
        return web.Response(status=204)

    async def set_password(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers 204."""
        with self._done(request, "password.set", name):
            given = await _read(request, Password)
            await self._directory.set_password(name, await self._passwords.hash(given.password))
        return web.Response(status=204)

    @contextmanager
    def _done(self, request: web.BaseRequest, verb: str, name: str) -> Iterator[dict[str, object]]:
        """What an admin does, and goes into the audit trail. Raises FORBIDDEN for others, before anything is looked
        at."""
        principal = principal_of(request)
        with self._hub.audited(principal, verb, name) as entry:
            self._hub.authorize_admin(principal)
            yield entry


async def _read(request: web.BaseRequest, model: type[M]) -> M:
    """The body. Raises BAD_REQUEST."""
    values = await parameters.read_json(request)
    arrived(request)
    try:
        return model.model_validate(values, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise BrokerError(Code.BAD_REQUEST, f"{where}: {first['msg']}") from None


def _lifetime(given: object) -> int | None:
    """Milliseconds. Raises BAD_OPTION."""
    lifetime = None if given is None else parse_duration(given, "lifetime")
    if lifetime is not None and lifetime < 1_000:
        raise BrokerError(Code.BAD_OPTION, "lifetime is at least 1s; leave it out for a token that does not expire")
    return lifetime


def account_values(account: Account) -> dict[str, Any]:
    """A principal as admins see it: no secret is in it, nor anything that one could be found by."""
    record = account.record
    tokens = [
        {"id": t.id, "created_at": moment(t.created_at), "expires_at": _moment(t.expires_at)}
        for t in sorted(record.tokens.values(), key=lambda token: token.created_at)
    ]
    grants = list(map(str, record.grants))
    return {"name": account.principal.name, "grants": grants, "tokens": tokens, "password": record.password is not None}


def _moment(ms: int | None) -> str | None:
    return None if ms is None else moment(ms)
