"""MQTT's clients and retained messages, as operators see them. The door itself is handed in by the daemon. Floor 4."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

from aiohttp import web

from broker.auth.grant import CONNECTIONS, Verb, on_topic
from broker.core.errors import BrokerError
from broker.core.message import Row, unpack_meta
from broker.core.topic import check_topic
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import principal_of
from broker.protocols.http.models import Deleted, Moment, Shape
from broker.protocols.http.operation import Answer, Choice, Operation, Parameter, Tag, no_content, pages, path_part
from broker.protocols.http.paging import names_in_order
from broker.protocols.http.representation import answer, moment
from broker.protocols.http.router import Route


class MqttSubscription(Shape):
    """`filter` as it was sent, `qos` as it was granted."""

    filter: str
    qos: int


class MqttGroup(Shape):
    """A shared subscription, and what waits for all its members together."""

    filter: str
    queued: int
    queued_bytes: int


class MqttTrouble(Shape):
    """What was refused, or why a connection ended."""

    code: str
    detail: str
    at: Moment


class MqttClient(Shape):
    """A client is a session, connected or away; what only one that is connected has is null for the others.

    `kept`: its session outlives the connection, by `expiry_seconds`; `expires_at` of one that is away. `filters`: how
    many subscriptions there are, `groups` of those that are shared. `in_flight_…`: messages that are not answered for
    good, from us and to us. `connection` is its id in the list of connections.
    """

    client: str
    principal: str
    state: Literal["connected", "away"]
    connection: str | None
    address: str | None
    port: int | None
    version: str | None
    keep_alive_seconds: int | None
    connected_since: Moment | None
    slow: bool
    kept: bool
    expiry_seconds: int
    away_since: Moment | None
    expires_at: Moment | None
    subscriptions: list[MqttSubscription]
    groups: list[MqttGroup]
    filters: int
    queued: int
    queued_bytes: int
    in_flight_out: int
    in_flight_in: int
    dropped: int
    last_error: MqttTrouble | None


class MqttClients(Shape):
    """A page; `next` goes into `after` for the one that follows."""

    clients: list[MqttClient]
    next: str | None


class RetainedMessage(Shape):
    """`size`: bytes of its body; `offset`: its place in the log, null for one that is in none."""

    topic: str
    size: int
    principal: str
    offset: int | None
    published_at: Moment
    expires_at: Moment | None


class RetainedMessages(Shape):
    """A page; `next` goes into `after` for the one that follows."""

    retained: list[RetainedMessage]
    next: str | None


MOMENTS = ("connected_since", "away_since", "expires_at")
SHOWN_AT_ONCE = 100
"""Clients that are shown in one go."""
SHOWN = 10
"""Subscriptions of each client in a list; alone it is shown with all."""
CLIENT = path_part("client", "The client's identifier, percent-encoded.", "oven-7")
LIMIT, AFTER = pages("clients", 1_000, 100)
PREFIX = Parameter("prefix", "Only clients whose identifier begins so.")
PRINCIPAL = Parameter("principal", "Only clients of this principal.")
STATE = Choice.of("state", "Only clients that are so.", "connected", "away")
SLOW = Choice.of("slow", "Only clients that do not read, or only the others.", "true", "false")
FORGET = Choice.of("forget", "End its session too, with all that waits for it.", "true", "false")
FILTER = Parameter("filter", "A topic filter; `*` and `**` stand for `+` and `#`.", required=True, example="plant/**")
TOPIC = path_part("topic", "Its topic; slashes may stay as they are.", "plant/oven/state")
RETAINED_LIMIT, RETAINED_AFTER = pages("messages", 1_000, 100)

LIST = Operation(
    Tag.MQTT,
    "List MQTT clients",
    {200: Answer("By identifier; of each up to ten subscriptions.", MqttClients)},
    "Every session, connected or kept. `queued` are messages that the client has not answered; `dropped` will never"
    " reach it: they were over a cap of its queue, or are in no log and came while it did not read.",
    (PREFIX, PRINCIPAL, STATE, SLOW, LIMIT, AFTER),
)
SHOW = Operation(
    Tag.MQTT, "Show an MQTT client", {200: Answer("With all its subscriptions.", MqttClient)}, "", (CLIENT,)
)
KICK = Operation(
    Tag.MQTT,
    "Send an MQTT client away",
    no_content("It was told why (reason 0x98 in MQTT 5) and closed; its will is published."),
    "A client that wants to may connect again: to keep it out, take its right away. One that is away has no connection:"
    " 404 without `forget`.",
    (CLIENT, FORGET),
)
RETAINED = Operation(
    Tag.MQTT,
    "List retained messages",
    {200: Answer("By topic, without bodies.", RetainedMessages)},
    "Needs `consume` on the filter. `principal` published it; `$bridge/NAME` is the bridge that brought it.",
    (FILTER, RETAINED_LIMIT, RETAINED_AFTER),
)
DELETE = Operation(
    Tag.MQTT,
    "Delete retained messages",
    {200: Answer("All of then that the filter matched.", Deleted)},
    "Needs `manage` on the filter. Nobody is told; the messages stay in the log as long as others do.",
    (FILTER,),
)
DELETE_ONE = Operation(
    Tag.MQTT, "Delete a retained message", {200: Answer("It, if there was one.", Deleted)}, "The same.", (TOPIC,)
)


class Clients(Protocol):
    """What the MQTT door says and does; times are unix milliseconds."""

    def names(self, prefix: str, principal: str | None, connected: bool | None, slow: bool | None) -> Iterator[str]:
        """Identifiers of those that are so, in no order."""

    def show(self, name: str, most: int | None) -> Mapping[str, Any]:
        """One, with at most so many subscriptions. Raises NOT_FOUND."""

    async def kick(self, name: str) -> None:
        """Close its connection. Raises NOT_FOUND."""

    async def forget(self, name: str) -> None:
        """End its session too. Raises NOT_FOUND."""


class MqttRoutes:
    """See the module."""

    def __init__(self, hub: Hub, clients: Clients) -> None:
        self._hub = hub
        self._clients = clients

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [
            Route("GET", "/v1/mqtt/clients", self.list, "mqtt_clients", LIST),
            Route("GET", "/v1/mqtt/clients/{client}", self.show, "mqtt_client", SHOW),
            Route("DELETE", "/v1/mqtt/clients/{client}", self.kick, "mqtt_kick", KICK),
            Route("GET", "/v1/mqtt/retained", self.retained, "mqtt_retained", RETAINED),
            Route("DELETE", "/v1/mqtt/retained", self.delete, "mqtt_delete_retained", DELETE),
            Route("DELETE", "/v1/mqtt/retained/{topic}", self.delete_one, "mqtt_delete_one", DELETE_ONE),
        ]

    async def list(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers a page of clients."""
        self._hub.authorize(principal_of(request), Verb.CONSUME, CONNECTIONS)
        query = request.query
        state, slow = STATE.read(query), SLOW.read(query)
        names = self._clients.names(
            query.get("prefix", ""),
            query.get("principal"),
            None if state is None else state == "connected",
            None if slow is None else slow == "true",
        )
        part, following = await names_in_order(names, LIMIT.read(query), query.get("after"))
        shown: list[dict[str, Any]] = []
        for count, name in enumerate(part, 1):
            with suppress(BrokerError):  # its session has just ended
                shown.append(_client(self._clients.show(name, SHOWN)))
            if count % SHOWN_AT_ONCE == 0:
                await asyncio.sleep(0)
        return answer({"clients": shown, "next": following})

    async def show(self, request: web.BaseRequest, client: str) -> web.StreamResponse:
        """Answers one."""
        self._hub.authorize(principal_of(request), Verb.CONSUME, CONNECTIONS)
        return answer(_client(self._clients.show(client, None)))

    async def kick(self, request: web.BaseRequest, client: str) -> web.StreamResponse:
        """Answers 204."""
        principal, forget = principal_of(request), FORGET.read(request.query) == "true"
        with self._hub.audited(principal, "mqtt.forget" if forget else "mqtt.kick", client[:100]):
            self._hub.authorize(principal, Verb.MANAGE, CONNECTIONS)
            await (self._clients.forget if forget else self._clients.kick)(client)
        return web.Response(status=204)

    async def retained(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers a page of what is retained."""
        query, text = request.query, _filter(request)
        self._hub.authorize(principal_of(request), Verb.CONSUME, on_topic(text))
        kept = self._hub.retained
        part, following = await names_in_order(list(kept.matched(text)), RETAINED_LIMIT.read(query), query.get("after"))
        shown: list[dict[str, Any]] = []
        for topic in part:
            with suppress(KeyError):  # it has just been deleted
                shown.append(_retained(*kept.show(topic)))
        return answer({"retained": shown, "next": following})

    async def delete(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers how many went."""
        return answer({"deleted": await self._hub.delete_retained(principal_of(request), _filter(request))})

    async def delete_one(self, request: web.BaseRequest, topic: str) -> web.StreamResponse:
        """The same of one topic, whatever stands in its name."""
        return answer({"deleted": await self._hub.delete_retained(principal_of(request), check_topic(topic))})


def _filter(request: web.BaseRequest) -> str:
    """Raises BAD_FILTER."""
    (text,) = parameters.filters([request.query.get(FILTER.name, "")])
    return text


def _client(values: Mapping[str, Any]) -> dict[str, Any]:
    """Times as others can read them."""
    shown = dict(values)
    for name in MOMENTS:
        shown[name] = None if values[name] is None else moment(values[name])
    if (trouble := values["last_error"]) is not None:
        shown["last_error"] = trouble | {"at": moment(trouble["at"])}
    return shown


def _retained(row: Row, owner: str) -> dict[str, Any]:
    offset, topic, at, meta, body = row
    expires_at = unpack_meta(meta).get("expires_at")
    return {
        "topic": topic,
        "size": len(body),
        "principal": owner,
        "offset": offset or None,
        "published_at": moment(at),
        "expires_at": None if expires_at is None else moment(expires_at),
    }
