"""Subscriptions: made, changed, looked at, deleted. Floor 4."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.auth.grant import Verb, on_subscription
from broker.core.errors import BrokerError, Code
from broker.core.spec import parse_spec
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import arrived, principal_of
from broker.protocols.http.models import Secret, Settings, Subscription, Subscriptions
from broker.protocols.http.operation import JSON, Answer, Body, Operation, Tag, no_content, pages, path_part
from broker.protocols.http.paging import page
from broker.protocols.http.representation import COUNTS, answer, subscription_values
from broker.protocols.http.router import Route

NAME = path_part("name", "Letters, digits, `.`, `_`, `-`; at most 128.", "mailer")
LIMIT, AFTER = pages("subscriptions", 1_000, 1_000)

LIST = Operation(
    Tag.SUBSCRIPTIONS,
    "List subscriptions",
    {200: Answer("All that one may see, by name.", Subscriptions)},
    "",
    (LIMIT, AFTER),
)
GET = Operation(
    Tag.SUBSCRIPTIONS, "Show a subscription", {200: Answer("Settings and counts.", Subscription)}, "", (NAME,)
)
PUT = Operation(
    Tag.SUBSCRIPTIONS,
    "Make or change a subscription",
    {200: Answer("Changed.", Subscription), 201: Answer("Made.", Subscription)},
    "`config/postroom.toml` says what each setting means. Secrets of webhooks are shown as `***`; sent back so, they"
    " stay what they are.",
    (NAME,),
    Body({JSON: Settings}, example={"kind": "queue", "topics": ["orders/#"], "retry": {"max_attempts": 5}}),
)
DELETE = Operation(
    Tag.SUBSCRIPTIONS, "Delete a subscription", no_content("Gone, and its progress forgotten."), "", (NAME,)
)
SECRET = Operation(
    Tag.SUBSCRIPTIONS,
    "Show the secret of its webhooks",
    {200: Answer("Made for it when it came without one.", Secret)},
    "",
    (NAME,),
)


class SubscriptionRoutes:
    """`secret` tells what a subscription's webhooks are signed with."""

    def __init__(self, hub: Hub, secret: Callable[[str], Awaitable[str]]) -> None:
        self._hub = hub
        self._secret = secret

    def routes(self) -> list[Route]:
        """What this module serves."""
        path = "/v1/subscriptions/{name}"
        return [
            Route("GET", "/v1/subscriptions", self.list, "subscriptions", LIST),
            Route("GET", path, self.get, "subscription", GET),
            Route("PUT", path, self.put, "put_subscription", PUT),
            Route("DELETE", path, self.delete, "delete_subscription", DELETE),
            Route("GET", f"{path}/secret", self.secret, "secret", SECRET),
        ]

    async def list(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers a page of those that the client may see."""
        limit = LIMIT.read(request.query)
        seen = await self._hub.subscriptions(principal_of(request), request.query.get("after"), limit + 1)
        part, following = page(seen, lambda info: info.spec.name, limit, None)
        return answer({"subscriptions": [subscription_values(info) for info in part], "next": following})

    async def get(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers settings and counts."""
        return answer(subscription_values(self._hub.subscription(principal_of(request), name)))

    async def put(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Creates (201) or changes (200). What a GET answered may be sent back: counts in it are passed over."""
        principal = principal_of(request)
        values = await parameters.read_json(request)
        arrived(request)
        if not isinstance(values, dict):
            raise BrokerError(Code.BAD_REQUEST, 'send a map: {"kind": "queue", "topics": ["orders/#"]}')
        if values.pop("name", name) != name:
            raise BrokerError(Code.BAD_REQUEST, f"the name in the body is not the path's, {name!r}")
        settings = {key: value for key, value in values.items() if key not in COUNTS}
        created = await self._hub.put_subscription(principal, parse_spec(name, settings))
        return answer(subscription_values(self._hub.subscription(principal, name)), 201 if created else 200)

    async def secret(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers the secret that the receiver of its webhooks checks them by, to who may change the subscription."""
        principal = principal_of(request)
        with self._hub.audited(principal, "subscription.secret", name):
            self._hub.authorize(principal, Verb.MANAGE, on_subscription(name))
            return answer({"secret": await self._secret(name)})

    async def delete(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers 204."""
        await self._hub.delete_subscription(principal_of(request), name)
        return web.Response(status=204)
