"""The sender against a real engine and a real HTTP receiver on loopback."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from broker.auth.principal import LOCAL
from broker.connectors.webhook.options import WebhookOptions
from broker.connectors.webhook.send import WebhookSender
from broker.connectors.webhook.signing import parse_secret, verify
from broker.core.errors import BrokerError, Code
from broker.core.spec import parse_spec
from broker.engine.base import SubscriptionInfo, Unit
from broker.hub import Outgoing
from tests.connectors.world import Broker, until

LOOPBACK = WebhookOptions.model_validate({"allow": ["127.0.0.0/8"]})
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """A webhook receiver; `respond` is replaced by what a test wants."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, bytes]] = []
        self.paths: list[str] = []
        self.under_way = self.most_under_way = 0
        self.respond: Respond = self.ok
        self.release = asyncio.Event()

    async def ok(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def hang(self, request: web.Request) -> web.StreamResponse:
        await self.release.wait()
        return web.Response()

    def statuses(self, *statuses: int, **headers: str) -> None:
        """Answer with these, then with 200."""
        left = list(statuses)

        async def respond(request: web.Request) -> web.StreamResponse:
            status = left.pop(0) if left else 200
            return web.Response(status=status, text="because", headers=headers if status != 200 else None)

        self.respond = respond

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.headers, await request.read()))
        self.paths.append(request.path)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self.respond(request)
        finally:
            self.under_way -= 1

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/hook"

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.requests]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    receiver.release.set()
    await receiver.runner.cleanup()


class Bench:
    """Broker, receiver and the sender's task."""

    def __init__(self, broker: Broker, receiver: Receiver) -> None:
        self.broker = broker
        self.receiver = receiver
        self.task: asyncio.Task[None] | None = None

    def start(self, options: WebhookOptions = LOOPBACK) -> None:
        self.sender = WebhookSender(self.broker.hub, options, self.broker.clock, self.broker.clock, lambda: 0.5)
        self.task = asyncio.create_task(self.sender.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def subscribe(self, name: str = "hook", topic: str = "orders/#", **options: Any) -> None:
        values = {"topics": [topic], "retry": {"initial": "1s", "jitter": 0, "factor": 1, "max_attempts": 3}}
        values["webhook"] = {"url": self.receiver.url, "secret": SECRET, **options.pop("webhook", {})}
        await self.broker.hub.put_subscription(LOCAL, parse_spec(name, {**values, **options}))

    async def publish(self, *bodies: bytes, topic: str = "orders/new", **options: Any) -> None:
        await self.broker.hub.publish(LOCAL, [Outgoing(topic, body, options) for body in bodies])

    def info(self, name: str = "hook") -> SubscriptionInfo:
        return self.broker.engine.subscription(name)

    async def acked(self, count: int, name: str = "hook") -> None:
        await until(lambda: self.info(name).acked == count)

    async def failed(self, count: int, name: str = "hook") -> None:
        await until(lambda: self.status(name).failed == count and not self.status(name).in_flight)

    def status(self, name: str = "hook") -> Any:
        return next(s for s in self.sender.status() if s.subscription == name)


@pytest.fixture
async def bench(broker: Broker, receiver: Receiver) -> AsyncIterator[Bench]:
    bench = Bench(broker, receiver)
    bench.start()
    yield bench
    await bench.stop()


async def test_a_message_is_posted_signed_and_acked(bench: Bench) -> None:
    await bench.subscribe(webhook={"headers": {"Authorization": "Bearer x"}})
    await bench.publish(b'{"a":1}', id="o.1", key="k", content_type="application/json", headers={"file.row": "7"})
    await bench.acked(1)
    headers, body = bench.receiver.requests[0]
    assert body == b'{"a":1}'
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer x"
    assert headers["webhook-id"] == "o%2E1"
    assert headers["Postroom-Topic"] == "orders/new"
    assert headers["Postroom-Attempt"] == "1"
    assert headers["Postroom-Header-file.row"] == "7"
    assert headers["User-Agent"].startswith("Postroom/")
    timestamp, signature = headers["webhook-timestamp"], headers["webhook-signature"]
    verify([parse_secret(SECRET)], "o%2E1", timestamp, signature, body, bench.broker.clock())
    assert bench.info().lag == 0


async def test_several_secrets_sign_together(bench: Bench) -> None:
    newer = "whsec_" + "B" * 44
    await bench.subscribe(webhook={"secret": [newer, SECRET]})
    await bench.publish(b"x")
    await bench.acked(1)
    headers, body = bench.receiver.requests[0]
    for secret in (newer, SECRET):
        key, at = parse_secret(secret), headers["webhook-timestamp"]
        verify([key], headers["webhook-id"], at, headers["webhook-signature"], body, int(at))
    assert await bench.sender.secret("hook") == newer


async def test_a_secret_is_made_once_and_kept_over_a_restart(bench: Bench) -> None:
    await bench.subscribe(webhook={"secret": None})
    await bench.publish(b"x")
    await bench.acked(1)
    secret = await bench.sender.secret("hook")
    headers, body = bench.receiver.requests[0]
    at = headers["webhook-timestamp"]
    verify([parse_secret(secret)], headers["webhook-id"], at, headers["webhook-signature"], body, int(at))
    await bench.stop()
    await bench.broker.restart()
    bench.start()
    assert await bench.sender.secret("hook") == secret
    with pytest.raises(BrokerError) as refusal:
        await bench.sender.secret("nobody")
    assert refusal.value.code is Code.UNKNOWN_SUBSCRIPTION


async def test_two_who_make_the_secret_at_once_agree(bench: Bench) -> None:
    await bench.subscribe(webhook={"secret": None})
    assert len(set(await asyncio.gather(*(bench.sender.secret("hook") for _ in range(5))))) == 1


async def test_a_failure_is_tried_again_by_the_policy_with_the_same_id(bench: Bench) -> None:
    bench.receiver.statuses(500)
    await bench.subscribe()
    await bench.publish(b"x")
    await bench.failed(1)
    assert bench.info().delayed == 1
    assert bench.status().state == "failing"
    assert bench.status().error == "500: because"
    await bench.broker.pass_time(1.1)
    await bench.acked(1)
    (first, _), (second, _) = bench.receiver.requests
    assert first["webhook-id"] == second["webhook-id"]
    assert (first["Postroom-Attempt"], second["Postroom-Attempt"]) == ("1", "2")
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert bench.status().state == "ok"


async def test_after_the_last_attempt_it_is_a_dead_letter_with_its_history(bench: Bench) -> None:
    bench.receiver.statuses(500, 502, 503)
    await bench.subscribe()
    await bench.publish(b"x")
    for attempt in (1, 2, 3):
        await bench.failed(attempt)
        await bench.broker.pass_time(2)
    await until(lambda: bench.info().dead == 1)
    await bench.broker.hub.committed(Unit())
    (dead,) = await bench.broker.messages("$dead/hook")
    assert [entry["error"] for entry in dead.history] == ["500: because", "502: because", "503: because"]


async def test_retry_after_holds_the_whole_endpoint(bench: Bench) -> None:
    bench.receiver.statuses(429, **{"Retry-After": "100"})
    await bench.subscribe(webhook={"max_in_flight": 1})
    await bench.publish(b"1", b"2", b"3")
    await bench.failed(1)
    assert bench.status().state == "waiting"
    await bench.broker.pass_time(99)
    bench.sender.tick()
    await bench.publish(b"4")
    assert len(bench.receiver.requests) == 1
    assert bench.info().leased == 0
    await bench.broker.pass_time(1.5)
    bench.sender.tick()
    await bench.acked(3)
    assert bench.receiver.bodies[1:] == [b"2", b"3", b"4"]
    await bench.broker.pass_time(10)
    await bench.acked(4)
    assert bench.receiver.requests[-1][0]["Postroom-Attempt"] == "2"


async def test_messages_handed_out_before_a_retry_after_cost_no_attempt(bench: Bench) -> None:
    bench.receiver.statuses(503, **{"Retry-After": "100"})
    await bench.subscribe(webhook={"max_in_flight": 4}, retry={"max_attempts": 2, "initial": "1s"})
    await bench.publish(b"1")
    await bench.failed(1)
    await bench.publish(b"2", b"3", b"4")
    await until(lambda: bench.info().leased == 0 and bench.info().ready == 3)
    assert len(bench.receiver.requests) == 1
    await bench.broker.pass_time(120)
    bench.sender.tick()
    await bench.acked(4)
    assert {h["Postroom-Attempt"] for h, b in bench.receiver.requests if b != b"1"} == {"1"}


async def test_410_pauses_and_keeps_the_messages(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.receiver.statuses(410)
    await bench.subscribe()
    await bench.publish(b"x")
    await until(lambda: bench.info().paused)
    await bench.failed(1)
    assert bench.info().ready == 1
    assert "410" in caplog.text
    await bench.publish(b"y")
    assert len(bench.receiver.requests) == 1
    await bench.broker.engine.pause("hook", False)
    await bench.acked(2)
    assert [h["Postroom-Attempt"] for h, _ in bench.receiver.requests] == ["1", "1", "1"]


async def test_it_runs_again_after_a_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.subscribe()
    await bench.publish(b"x")
    await bench.acked(1)

    async def fail() -> None:
        raise RuntimeError

    assert bench.task is not None
    with monkeypatch.context() as patch:
        patch.setattr(bench.sender, "reconcile", fail)
        bench.sender.sync()
        with pytest.raises(RuntimeError):
            await bench.task
    bench.task = asyncio.create_task(bench.sender.run())
    await bench.publish(b"y")
    await bench.acked(2)


async def test_redirects_are_not_followed(bench: Bench) -> None:
    bench.receiver.statuses(307, Location="/elsewhere")
    await bench.subscribe()
    await bench.publish(b"x")
    await bench.failed(1)
    assert "/elsewhere" in bench.status().error
    assert bench.receiver.paths == ["/hook"]


async def test_an_endpoint_that_never_answers_holds_no_other_up(bench: Bench) -> None:
    bench.receiver.respond = bench.receiver.hang
    other = Receiver()
    await other.start()
    try:
        await bench.subscribe("dead", webhook={"timeout": "5m"})
        await bench.subscribe("alive", webhook={"url": other.url})
        await bench.publish(*(b"%d" % i for i in range(50)))
        await bench.acked(50, "alive")
    finally:
        await other.runner.cleanup()
    assert bench.info("dead").acked == 0
    assert bench.info("dead").leased == 8 == bench.receiver.under_way


async def test_no_answer_in_time_is_a_failure(bench: Bench) -> None:
    bench.receiver.respond = bench.receiver.hang
    await bench.subscribe(webhook={"timeout": "100ms"})
    await bench.publish(b"x")
    await bench.failed(1)
    assert bench.status().error == "no answer within 0.1 s"


async def test_a_request_outlasts_a_short_lease(bench: Bench) -> None:
    bench.receiver.respond = bench.receiver.hang
    await bench.subscribe(lease="100ms", webhook={"timeout": "60s"})
    await bench.publish(b"x")
    await until(lambda: bench.receiver.under_way == 1)
    await bench.broker.pass_time(61)
    assert bench.info().leased == 1
    bench.receiver.release.set()
    await bench.acked(1)
    assert len(bench.receiver.requests) == 1


async def test_no_more_than_max_in_flight_at_once(bench: Bench) -> None:
    bench.receiver.respond = bench.receiver.hang
    await bench.subscribe(webhook={"max_in_flight": 3})
    await bench.publish(*(b"%d" % i for i in range(20)))
    await until(lambda: bench.receiver.under_way == 3)
    bench.receiver.release.set()
    await bench.acked(20)
    assert bench.receiver.most_under_way == 3


async def test_all_endpoints_together_keep_to_max_connections(broker: Broker, receiver: Receiver) -> None:
    bench = Bench(broker, receiver)
    bench.start(LOOPBACK.model_copy(update={"max_connections": 2}))
    receiver.respond = receiver.hang
    try:
        await bench.subscribe("one")
        await bench.subscribe("two")
        await bench.publish(*(b"%d" % i for i in range(5)))
        await until(lambda: receiver.under_way == 2)
        receiver.release.set()

        def all_acked() -> bool:
            bench.sender.tick()
            return bench.info("one").acked == bench.info("two").acked == 5

        await until(all_acked)
    finally:
        await bench.stop()
    assert receiver.most_under_way == 2


async def test_one_that_fails_again_and_again_is_soon_asked_by_one_request_at_a_time(bench: Bench) -> None:
    count = 5
    bench.receiver.statuses(*[500] * count)
    await bench.subscribe(webhook={"max_in_flight": count})
    await bench.publish(*(b"%d" % i for i in range(count)))
    await bench.failed(count)
    bench.receiver.respond = bench.receiver.hang
    await bench.broker.pass_time(2)
    await until(lambda: bench.receiver.under_way == 1)
    assert bench.info().leased == 1
    bench.receiver.release.set()
    await bench.acked(count)


async def test_a_connection_that_went_stale_is_replaced_at_once(bench: Bench) -> None:
    dropped: list[bool] = []

    async def drop_second(request: web.Request) -> web.StreamResponse:
        if len(bench.receiver.requests) == 2:
            dropped.append(True)
            assert request.transport is not None
            request.transport.close()
        return web.Response()

    bench.receiver.respond = drop_second
    await bench.subscribe()
    await bench.publish(b"1")
    await bench.acked(1)
    await bench.publish(b"2")
    await bench.acked(2)
    assert dropped
    assert bench.status().failed == 0


async def test_a_refused_connection_and_a_broken_answer_are_failures(bench: Bench) -> None:
    async def speak_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 this is not HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak_nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await bench.subscribe("nonsense", webhook={"url": f"http://127.0.0.1:{port}/"})
    await bench.publish(b"x")
    await bench.failed(1, "nonsense")
    server.close()
    await server.wait_closed()
    assert "no valid answer" in bench.status("nonsense").error
    await bench.subscribe("refused", webhook={"url": f"http://127.0.0.1:{port}/"})
    await bench.publish(b"y")
    await bench.failed(1, "refused")
    assert "cannot connect" in bench.status("refused").error


async def test_a_response_without_end_is_cut_and_its_status_counts(bench: Bench) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65536)
        return response

    bench.receiver.respond = flood
    await bench.subscribe()
    await bench.publish(b"x")
    await bench.acked(1)


async def test_a_large_body_arrives_whole(bench: Bench) -> None:
    bench.broker.hub.limits = bench.broker.limits.model_copy(update={"max_body": 8 << 20})
    await bench.subscribe()
    body = bytes(range(256)) * (20 << 10)
    await bench.publish(body, b"small")
    await bench.acked(2)
    assert sorted(bench.receiver.bodies, key=len) == [b"small", body]


async def test_private_addresses_are_closed_unless_the_operator_opens_them(broker: Broker, receiver: Receiver) -> None:
    bench = Bench(broker, receiver)
    bench.start(WebhookOptions())
    try:
        await bench.subscribe()
        await bench.publish(b"x")
        await bench.failed(1)
        assert "127.0.0.1 is not open to webhooks" in bench.status().error
        await bench.subscribe("named", webhook={"url": receiver.url.replace("127.0.0.1", "localhost")})
        await bench.publish(b"x")
        await bench.failed(1, "named")
        assert "not open to webhooks" in bench.status("named").error
    finally:
        await bench.stop()
    assert receiver.requests == []


async def test_stopping_in_the_middle_of_a_request_costs_no_attempt(bench: Bench) -> None:
    bench.receiver.respond = bench.receiver.hang
    await bench.subscribe()
    await bench.publish(b"x")
    await until(lambda: bench.receiver.under_way == 1)
    await bench.stop()
    assert bench.info().ready == 1
    await bench.broker.restart()
    bench.receiver.respond = bench.receiver.ok
    bench.start()
    await bench.acked(1)
    assert bench.receiver.requests[-1][0]["Postroom-Attempt"] == "1"


async def test_drain_lets_requests_under_way_end_and_takes_no_more(bench: Bench) -> None:
    bench.receiver.respond = bench.receiver.hang
    await bench.subscribe(webhook={"max_in_flight": 2})
    await bench.publish(b"1", b"2", b"3")
    await until(lambda: bench.receiver.under_way == 2)
    draining = asyncio.create_task(bench.sender.drain(10))
    await asyncio.sleep(0)
    bench.receiver.release.set()
    await draining
    assert bench.info().acked == 2
    assert (bench.info().ready, bench.info().leased, bench.info().consumers) == (1, 0, 0)


async def test_changed_settings_hold_from_the_next_request(bench: Bench) -> None:
    await bench.subscribe()
    await bench.publish(b"1")
    await bench.acked(1)
    await bench.subscribe(webhook={"url": bench.receiver.url + "/new"})
    await until(lambda: bench.info().consumers == 1 and "/new" in bench.info().spec.sink["url"])  # type: ignore[index]
    await bench.sender.reconcile()
    await bench.publish(b"2")
    await bench.acked(2)
    assert bench.receiver.paths == ["/hook", "/hook/new"]


async def test_deleted_and_made_again(bench: Bench) -> None:
    await bench.subscribe()
    await bench.publish(b"1")
    await bench.acked(1)
    await bench.broker.hub.delete_subscription(LOCAL, "hook")
    await until(lambda: not bench.sender.status())
    await bench.subscribe()
    await bench.publish(b"2")
    await until(lambda: len(bench.receiver.requests) == 2)


async def test_a_webhook_that_becomes_a_plain_queue_is_left_alone(bench: Bench) -> None:
    await bench.subscribe()
    await until(lambda: bench.info().consumers == 1)
    await bench.broker.hub.put_subscription(LOCAL, parse_spec("hook", {"topics": ["orders/#"]}))
    await until(lambda: bench.info().consumers == 0)


async def test_what_cannot_be_sent_is_refused_when_it_is_made(bench: Bench) -> None:
    with pytest.raises(BrokerError, match=r"webhook\.timeout"):
        await bench.subscribe(webhook={"timeout": "1h"})
    stream = parse_spec("s", {"kind": "stream", "topics": ["a"], "webhook": {"url": bench.receiver.url}})
    with pytest.raises(BrokerError, match="queue"):
        await bench.broker.hub.put_subscription(LOCAL, stream)
    assert bench.broker.engine.subscriptions() == []


async def test_stored_settings_that_do_not_fit_stop_only_themselves(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bad = parse_spec("bad", {"topics": ["#"], "webhook": {"url": "gopher://x"}})
    await bench.broker.engine.put_subscription(bad)
    await bench.subscribe()
    await bench.publish(b"x")
    await bench.acked(1)
    await bench.sender.reconcile()
    assert (bench.status("bad").state, bench.status("hook").state) == ("broken", "ok")
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


async def test_logs_hold_neither_payload_nor_path_nor_secret(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "broker.connectors")
    bench.receiver.statuses(500)
    await bench.subscribe(webhook={"url": bench.receiver.url + "/T0KEN"})
    await bench.publish(b"PAYLOAD")
    await bench.failed(1)
    await bench.broker.pass_time(2)
    await bench.acked(1)
    told = [str(record.__dict__) for record in caplog.records if record.name.startswith("broker.connectors")]
    assert len(told) == 2
    for text in told:
        assert "PAYLOAD" not in text
        assert "T0KEN" not in text
        assert SECRET not in text
