"""Who is connected, at every door, and how to send them away. Floor 4."""

from aiohttp import web

from broker.auth.grant import CONNECTIONS, Verb
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.net.admission import Admission, OpenConnection
from broker.protocols.http.access import principal_of
from broker.protocols.http.models import Connections
from broker.protocols.http.operation import Answer, Operation, Parameter, Tag, Whole, no_content, path_part
from broker.protocols.http.paging import page
from broker.protocols.http.representation import answer, moment
from broker.protocols.http.router import Route

ID = path_part("id", "As the list names it.", "native-3")
LIMIT = Whole.of("limit", "At most so many connections.", 1, 10_000, 1_000)
AFTER = Parameter("after", "Begin behind this id: `next` of the page before.")

LIST = Operation(Tag.CONNECTIONS, "List connections", {200: Answer("Oldest first.", Connections)}, "", (LIMIT, AFTER))
KICK = Operation(
    Tag.CONNECTIONS,
    "Close a connection",
    no_content("It was told why, as far as its protocol can, and closed; what it held is ready again."),
    "A client that wants to may connect again: to keep it out, take its right away.",
    (ID,),
)


class ConnectionRoutes:
    """Looks into the register of all doors."""

    def __init__(self, hub: Hub, admission: Admission) -> None:
        self._hub = hub
        self._admission = admission

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [
            Route("GET", "/v1/connections", self.list, "connections", LIST),
            Route("DELETE", "/v1/connections/{id}", self.kick, "kick", KICK),
        ]

    async def list(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers a page of the open connections."""
        self._hub.authorize(principal_of(request), Verb.CONSUME, CONNECTIONS)
        after = request.query.get("after")
        part, following = page(
            self._admission, _number, LIMIT.read(request.query), None if after is None else _number_in(after)
        )
        return answer({"connections": [_values(c) for c in part], "next": part[-1].id if following else None})

    async def kick(self, request: web.BaseRequest, connection_id: str) -> web.StreamResponse:
        """Answers 204."""
        principal = principal_of(request)
        with self._hub.audited(principal, "connection.close", connection_id[:100]):
            self._hub.authorize(principal, Verb.MANAGE, CONNECTIONS)
            found = self._admission.find(connection_id)
            if found is None:
                raise BrokerError(Code.NOT_FOUND, f"no connection {connection_id[:100]!r} is open")
            found.dismiss(BrokerError(Code.DISMISSED))
        return web.Response(status=204)


def _values(connection: OpenConnection) -> dict[str, object]:
    return {
        "id": connection.id,
        "door": connection.door,
        "address": connection.address,
        "port": connection.port,
        "principal": connection.principal.name if connection.principal is not None else None,
        "client": connection.client,
        "how": connection.identity.how if connection.identity is not None else None,
        "since": moment(int(connection.since * 1000)),
    }


def _number(connection: OpenConnection) -> int:
    return _number_in(connection.id)


def _number_in(connection_id: str) -> int:
    """Ids rise by their numbers. Raises BAD_OPTION."""
    number = connection_id.rpartition("-")[2]
    if not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise BrokerError(Code.BAD_OPTION, f"after={connection_id[:100]!r} is no id of a connection")
    return int(number)
