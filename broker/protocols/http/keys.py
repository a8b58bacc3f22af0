"""Keys and values, with revisions as entity tags: `/v1/kv`. Floor 4."""

import re

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.engine.base import Set
from broker.hub import Hub
from broker.protocols.http.access import connection_of, principal_of
from broker.protocols.http.models import Keys, Revision
from broker.protocols.http.operation import (
    Answer,
    Body,
    Operation,
    Parameter,
    Tag,
    header,
    no_content,
    pages,
    path_part,
)
from broker.protocols.http.paging import page
from broker.protocols.http.parameters import Bound, read_body
from broker.protocols.http.representation import answer
from broker.protocols.http.router import Route

_TAG = re.compile(r'"([0-9]{1,18})"')
BYTES = "application/octet-stream"

KEY = path_part("key", "At most 512 bytes; it may hold slashes.", "mails/count")
PREFIX = Parameter("prefix", "Only keys that begin so.")
LIMIT, AFTER = pages("keys", 10_000, 1_000)
IF_MATCH = header("If-Match", "Only when the key has this revision, as `ETag` gave it.", example='"41"')
IF_NONE_MATCH = header("If-None-Match", "`*`: only when the key is absent.")
ETAG = {"ETag": "The revision."}

LIST = Operation(Tag.KEYS, "List keys", {200: Answer("Sorted.", Keys)}, "", (PREFIX, LIMIT, AFTER))
GET = Operation(Tag.KEYS, "Read a value", {200: Answer("As it was written.", media=BYTES, headers=ETAG)}, "", (KEY,))
PUT = Operation(
    Tag.KEYS,
    "Write a value",
    {200: Answer("On disk.", Revision, headers=ETAG)},
    "A value is bytes, at most 1 MiB unless configured. 412 when a condition does not hold; then nothing is written.",
    (KEY, IF_MATCH, IF_NONE_MATCH),
    Body({"*/*": None}, required=False),
)
DELETE = Operation(Tag.KEYS, "Delete a key", no_content("It is absent."), "", (KEY, IF_MATCH))


class KeyRoutes:
    """The key/value store."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        """What this module serves."""
        path = "/v1/kv/{key}"
        return [
            Route("GET", "/v1/kv", self.list, "keys", LIST),
            Route("GET", path, self.get, "get_key", GET),
            Route("PUT", path, self.put, "put_key", PUT),
            Route("DELETE", path, self.delete, "delete_key", DELETE),
        ]

    async def list(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers a page of the keys that the client may see."""
        query = request.query
        limit = LIMIT.read(query)
        found = await self._hub.keys(principal_of(request), query.get("prefix", ""), query.get("after"), limit + 1)
        part, following = page(found, str, limit, None)
        return answer({"keys": part, "next": following})

    async def get(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """Answers the bytes of the value, with its revision as ETag."""
        found = await self._hub.get_key(principal_of(request), key)
        if found is None:
            raise BrokerError(Code.NOT_FOUND, f"key {key[:100]!r} is absent")
        value, revision = found
        headers = {"ETag": f'"{revision}"', "Content-Type": BYTES, "X-Content-Type-Options": "nosniff"}
        return web.Response(body=value, headers=headers)

    async def put(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """Answers 200 with the new revision after the commit."""
        value = await read_body(request, Bound(self._hub.limits.max_body, "limits.max_body"))
        revision = await self._write(request, Set(key, value, _expected(request)))
        response = answer({"key": key, "revision": revision})
        response.headers["ETag"] = f'"{revision}"'
        return response

    async def delete(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        """Answers 204 after the commit, also when the key was absent."""
        await self._write(request, Set(key, None, _expected(request)))
        return web.Response(status=204)

    async def _write(self, request: web.BaseRequest, write: Set) -> int:
        connection, principal = connection_of(request), principal_of(request)
        connection.arrived()
        self._hub.check_key(principal, write.key, write.value)
        prepared = self._hub.prepare(principal, (), sets=[write], sender=connection)
        with connection:
            receipt = await self._hub.committed(prepared.unit)
        return receipt.revisions[0]


def _expected(request: web.BaseRequest) -> int | None:
    """The revision that the key must have; 0: none, None: any. Raises BAD_REQUEST."""
    wanted, unwanted = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if wanted is None and unwanted is None:
        return None
    if wanted is None:
        if unwanted is not None and unwanted.strip() == "*":
            return 0
        raise BrokerError(Code.BAD_REQUEST, "If-None-Match is * here: the key must be absent")
    match = _TAG.fullmatch(wanted.strip())
    if match is None or unwanted is not None:
        raise BrokerError(Code.BAD_REQUEST, 'If-Match is one revision, as ETag gave it: "41"')
    return int(match[1])
