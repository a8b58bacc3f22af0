"""A named stream's cursor, for readers that speak plain HTTP: read on from it, and move it. Floor 4."""

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.core.position import Position
from broker.core.subscription import Outcome
from broker.engine.base import Settle
from broker.hub import Hub
from broker.protocols.http.access import arrived, connection_of, principal_of
from broker.protocols.http.compression import packed
from broker.protocols.http.models import Cursor, CursorMove, Page
from broker.protocols.http.operation import JSON, Answer, Body, Operation, Tag, Whole, path_part
from broker.protocols.http.parameters import read_json
from broker.protocols.http.representation import answer, message_json, messages_json
from broker.protocols.http.router import Route

NAME = path_part("name", "The stream.", "audit")
LIMIT = Whole.of("limit", "At most so many messages.", 1, 1_000, 100)

READ = Operation(
    Tag.STREAMS,
    "Read on from the cursor",
    {200: Answer("In order of offset. The cursor stays: commit `next` when they are worked on.", Page)},
    "",
    (NAME, LIMIT),
)
SHOW = Operation(Tag.STREAMS, "Show the cursor", {200: Answer("Where it stands.", Cursor)}, "", (NAME,))
MOVE = Operation(
    Tag.STREAMS,
    "Commit the cursor",
    {200: Answer("On disk. It never goes back: where it stands now.", Cursor)},
    "Everything up to this position is done.",
    (NAME,),
    Body({JSON: CursorMove}, example={"position": "EPOCH.OFFSET"}),
)


class CursorRoutes:
    """Steps 4 and 5 of the journey for streams."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        """What this module serves."""
        cursor = "/v1/streams/{name}/cursor"
        return [
            Route("GET", "/v1/streams/{name}/messages", self.read, "read_stream", READ),
            Route("GET", cursor, self.show, "cursor", SHOW),
            Route("PUT", cursor, self.move, "move_cursor", MOVE),
        ]

    async def read(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers a page of the log behind the cursor."""
        page = await self._hub.read_stream(principal_of(request), name, LIMIT.read(request.query))
        epoch = self._hub.engine.epoch
        texts = [message_json(row, epoch) for row in page.rows]
        body = messages_json(texts, next=f"{epoch}.{page.scanned}", recovered=page.recovered)
        return await packed(request, web.Response(body=body, content_type=JSON))

    async def show(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers where it stands."""
        return self._shown(request, name)

    async def move(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers where it stands after the commit."""
        principal = principal_of(request)
        self._hub.stream(principal, name)
        values = await read_json(request)
        arrived(request)
        if not isinstance(values, dict) or set(values) != {"position"} or type(values["position"]) is not str:
            raise BrokerError(Code.BAD_REQUEST, 'send {"position": …}, as `next` or a message has it')
        position = Position.parse(values["position"])
        if position.epoch != self._hub.engine.epoch:
            raise BrokerError(
                Code.BAD_POSITION, f"{position} is of another log than this one, {self._hub.engine.epoch}"
            )
        connection = connection_of(request)
        with connection:
            await self._hub.settle(principal, [Settle(name, Outcome.ACK, position.offset)], sender=connection)
        return self._shown(request, name)

    def _shown(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        info = self._hub.stream(principal_of(request), name)
        return answer({"position": f"{self._hub.engine.epoch}.{info.floor}", "lag": info.lag})
