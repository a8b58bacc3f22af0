"""Work a queue over HTTP."""

import asyncio
from typing import Any

import pytest

from broker.core.subscription import Delivery, Outcome
from broker.limits import Limits
from broker.protocols.http import receiver as receiver_module
from tests.protocols.http.conftest import Door, DoorFactory, until

POLL = b"POST /v1/queues/q/receive?max=%d&wait=30 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


def receiver_of(door: Door, name: str = "q") -> Any:
    found = door.server._receivers.get(name)
    assert found is not None
    return found


def waiting(door: Door) -> int:
    found = door.server._receivers.get("q")
    return 0 if found is None else len(found._waiters)


def refusal(result: Any) -> str:
    assert result["ok"] is False
    return str(result["problem"]["code"])


async def test_receive_and_ack(door: Door) -> None:
    await door.queue("q", ["orders/#"])
    for i in range(3):
        await door.publish("orders/created", str(i), Content_Type="text/plain")
    first, second = await door.receive("q", 2)
    assert [first["body"], second["body"]] == ["0", "1"]
    assert (first["attempt"], first["topic"]) == (1, "orders/created")
    results = await door.settle("q", *({"receipt": m["receipt"], "outcome": "ack"} for m in (first, second)))
    assert [r["ok"] for r in results] == [True, True]
    info = await door.info("q")
    assert (info["acked"], info["ready"], info["leased"]) == (2, 1, 0)
    (third,) = await door.receive("q", 10)
    assert third["body"] == "2"
    await door.restart()
    assert [m["body"] for m in await door.receive("q", 10)] == ["2"]


async def test_a_poll_with_a_body_waits_as_long_as_it_asked(open_door: DoorFactory) -> None:
    door = await open_door(request_timeout="100ms")
    await door.queue("q", ["a"])
    answer = await door("POST", "/v1/queues/q/receive?wait=300ms", "{}")
    assert (answer.status, answer.json["messages"]) == (200, [])


@pytest.mark.parametrize(
    "items",
    [
        '[{"receipt": NaN, "outcome": "ack"}]',
        '[{"receipt": "\\ud800", "outcome": "ack"}]',
        '[{"receipt": "x", "outcome": "retry", "error": "\\udfff"}]',
    ],
)
async def test_what_cannot_be_said_back_is_refused(door: Door, items: str) -> None:
    await door.queue("q", ["a"])
    answer = await door("POST", "/v1/queues/q/settle", items)
    assert (answer.status, answer.code) == (400, "bad_request")


async def test_an_empty_queue_answers_at_once_unless_asked_to_wait(door: Door) -> None:
    await door.queue("q", ["a"])
    assert await door.receive("q") == []
    assert await door.receive("q", wait=0.05) == []
    assert waiting(door) == 0


async def test_a_waiting_poll_gets_what_comes(door: Door) -> None:
    await door.queue("q", ["a"])
    poll = asyncio.create_task(door.receive("q", 10, wait=30))
    await until(lambda: waiting(door) == 1)
    await door.publish("a", b"1")
    assert len(await poll) == 1


async def test_polls_are_served_in_order_of_arrival(door: Door) -> None:
    await door.queue("q", ["a"])
    polls: list[asyncio.Task[list[Any]]] = []
    for _ in range(3):
        polls.append(asyncio.create_task(door.receive("q", 1, wait=30)))
        await until(lambda: waiting(door) == len(polls))
    for i in range(3):
        await door.publish("a", str(i), Content_Type="text/plain")
    assert [(await poll)[0]["body"] for poll in polls] == ["0", "1", "2"]


async def test_retry_release_reject_extend(door: Door) -> None:
    await door.queue("q", ["a"], lease="5s", retry={"max_attempts": 2})
    await door.publish("a", b"1")
    (message,) = await door.receive("q")
    assert (await door.settle("q", {"receipt": message["receipt"], "outcome": "release"}))[0]["ok"]
    (message,) = await door.receive("q", wait=5)
    assert message["attempt"] == 1
    held = receiver_of(door)._holds[message["offset"]]
    before = held.until
    assert (await door.settle("q", {"receipt": message["receipt"], "outcome": "extend", "duration": "1h"}))[0]["ok"]
    assert held.until > before + 3000
    (result,) = await door.settle(
        "q", {"receipt": message["receipt"], "outcome": "retry", "delay": 0, "error": "no stock"}
    )
    assert result["ok"]
    (message,) = await door.receive("q", wait=5)
    assert message["attempt"] == 2
    (result,) = await door.settle("q", {"receipt": message["receipt"], "outcome": "reject", "error": "never"})
    assert result["ok"]
    await until(lambda: any(t.name == "$dead/q" for t in door.engine.topics()))
    (dead,) = (await door("GET", "/v1/topics/$dead/q/messages")).json["messages"]
    assert [entry.get("error") for entry in dead["history"]] == ["no stock", "never"]
    assert (await door("POST", "/v1/queues/q/redrive?limit=10")).json == {"count": 1}
    assert len(await door.receive("q", wait=5)) == 1


async def test_a_delayed_retry_waits(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    (message,) = await door.receive("q")
    assert (await door.settle("q", {"receipt": message["receipt"], "outcome": "retry", "delay": "1h"}))[0]["ok"]
    assert await door.receive("q") == []
    assert (await door.info("q"))["delayed"] == 1


async def test_one_bad_item_does_not_stop_the_others(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.queue("other", ["a"])
    await door.publish("a", b"1")
    await door.publish("a", b"2")
    first, second = await door.receive("q", 2)
    (foreign,) = await door.receive("other")
    results = await door.settle(
        "q",
        {"receipt": first["receipt"], "outcome": "ack"},
        {"receipt": first["receipt"], "outcome": "reject"},
        {"receipt": "nonsense", "outcome": "ack"},
        {"receipt": foreign["receipt"], "outcome": "ack"},
        {"receipt": second["receipt"], "outcome": "finish"},
        {"receipt": second["receipt"], "outcome": "ack", "delay": 3},
        {"receipt": second["receipt"], "outcome": "retry", "delay": "soon"},
        {"receipt": second["receipt"], "outcome": "extend", "duration": "1ms"},
        {"receipt": second["receipt"], "outcome": "ack", "duration": "1m"},
        {"receipt": second["receipt"], "outcome": "ack", "extra": 1},
        {"receipt": second["receipt"], "outcome": "retry", "error": 7},
        {"outcome": "ack"},
        "ack",
        {"receipt": second["receipt"], "outcome": "ack"},
    )
    assert [r["ok"] for r in results] == [True, *[False] * 12, True]
    assert [refusal(r) for r in results[1:-1]] == [
        *["bad_request"] * 3,
        *["bad_option"] * 7,
        *["bad_request"] * 2,
    ]
    assert (await door.info("q"))["acked"] == 2
    assert (await door.info("other"))["leased"] == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"no json", b"[" * 100_000, b'"x"'])
async def test_a_body_that_is_no_list_is_refused(door: Door, body: bytes) -> None:
    await door.queue("q", ["a"])
    answer = await door("POST", "/v1/queues/q/settle", body)
    assert (answer.status, answer.code) == (400, "bad_request")


async def test_too_many_items_are_refused(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_batch=2))
    await door.queue("q", ["a"])
    assert (await door("POST", "/v1/queues/q/settle", [{}] * 3)).code == "bad_request"
    assert (await door("POST", "/v1/queues/q/settle", [{}] * 2)).status == 200


async def test_a_settle_that_comes_too_late_is_told(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    (message,) = await door.receive("q")
    item = {"receipt": message["receipt"], "outcome": "ack"}
    assert (await door.settle("q", item))[0]["ok"]
    assert refusal((await door.settle("q", item))[0]) == "lease_lost"
    assert refusal((await door.settle("q", item | {"outcome": "extend"}))[0]) == "lease_lost"


async def test_a_lease_that_ran_out_goes_to_the_next_worker(door: Door) -> None:
    await door.queue("q", ["a"], lease="100ms", retry={"initial": "0s"})
    await door.publish("a", b"1")
    (late,) = await door.receive("q")
    (again,) = await door.receive("q", wait=10)
    assert (again["offset"], again["attempt"]) == (late["offset"], 2)
    assert again["receipt"] != late["receipt"]
    assert refusal((await door.settle("q", {"receipt": late["receipt"], "outcome": "extend"}))[0]) == "lease_lost"
    assert refusal((await door.settle("q", {"receipt": late["receipt"], "outcome": "ack"}))[0]) == "lease_lost"


async def test_a_receipt_from_before_a_restart_still_settles(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    await door.publish("a", b"2")
    old = await door.receive("q", 2)
    await door.restart()
    assert (await door.settle("q", {"receipt": old[0]["receipt"], "outcome": "ack"}))[0]["ok"]
    (leased,) = await door.receive("q", 10)
    assert leased["offset"] == old[1]["offset"]
    assert refusal((await door.settle("q", {"receipt": old[1]["receipt"], "outcome": "ack"}))[0]) == "lease_lost"
    assert (await door.settle("q", {"receipt": leased["receipt"], "outcome": "ack"}))[0]["ok"]


async def test_a_poll_whose_client_is_gone_costs_nothing(door: Door) -> None:
    await door.queue("q", ["a"])
    _, writer = await door.connect()
    writer.write(POLL % 5)
    await until(lambda: waiting(door) == 1)
    writer.close()
    await until(lambda: waiting(door) == 0)
    for i in range(3):
        await door.publish("a", str(i), Content_Type="text/plain")
    await until(lambda: receiver_of(door)._credit == 0)  # they came, nobody waited, they went back
    messages = await door.receive("q", 10)
    assert [(m["body"], m["attempt"]) for m in messages] == [("0", 1), ("1", 1), ("2", 1)]
    assert (await door.info("q"))["retried"] == 0


async def test_messages_of_a_request_that_was_cancelled_in_the_last_moment_go_back(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.receive("q")
    receiver = receiver_of(door)
    task = asyncio.create_task(receiver.receive(1, 30))
    await until(lambda: waiting(door) == 1)
    deliver = receiver.deliver

    def deliver_and_cancel(delivery: Delivery) -> None:
        deliver(delivery)
        task.cancel()

    receiver.deliver = deliver_and_cancel
    await door.publish("a", b"1")
    with pytest.raises(asyncio.CancelledError):
        await task
    receiver.deliver = deliver
    (message,) = await door.receive("q", wait=5)
    assert message["attempt"] == 1


async def test_an_answer_that_cannot_be_sent_goes_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    await door.queue("q", ["a"])
    reader, writer = await door.connect()
    writer.write(POLL % 1)
    await until(lambda: waiting(door) == 1)
    (connection,) = [c for c in door.server.connections if c._busy]
    receiver = receiver_of(door)
    deliver = receiver.deliver

    def deliver_and_break(delivery: Delivery) -> None:
        deliver(delivery)
        connection.abort()

    monkeypatch.setattr(receiver, "deliver", deliver_and_break)
    await door.publish("a", b"1")
    assert await reader.read() == b""
    writer.close()
    monkeypatch.undo()
    (message,) = await door.receive("q", wait=5)
    assert message["attempt"] == 1


async def test_other_workers_get_what_http_workers_do_not_ask_for(door: Door) -> None:
    """Credit that a poll left behind must not keep messages from those who want them."""

    class Worker:
        def __init__(self) -> None:
            self.offsets: list[int] = []

        def deliver(self, delivery: Delivery) -> None:
            self.offsets += [row[0] for row in delivery.rows]

        def detached(self, error: Exception) -> None:
            raise AssertionError(error)

    await door.queue("q", ["a"])
    assert await door.receive("q", 100, wait=0.05) == []
    worker = Worker()
    tie = door.engine.attach("q", worker)
    tie.grant(1000, 1 << 20)
    for i in range(20):
        await door.publish("a", str(i))
    await until(lambda: len(worker.offsets) == 20)
    assert tie.settle(Outcome.ACK, worker.offsets) == ()
    tie.detach()


async def test_an_idle_attachment_is_let_go(door: Door) -> None:
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    (message,) = await door.receive("q")
    receiver = receiver_of(door)
    now = receiver._clock()
    receiver._clock = lambda: now
    assert (await door.info("q"))["consumers"] == 1
    now += receiver_module.IDLE_SECONDS + 1
    assert receiver.sweep()  # a worker holds a message
    await door.settle("q", {"receipt": message["receipt"], "outcome": "ack"})
    assert receiver.sweep()  # not idle for long
    now += receiver_module.IDLE_SECONDS + 1
    door.server._receivers._sweep()
    assert door.server._receivers.get("q") is None
    assert (await door.info("q"))["consumers"] == 0
    await door.publish("a", b"2")
    assert len(await door.receive("q")) == 1


async def test_leases_that_ran_out_are_forgotten(door: Door) -> None:
    await door.queue("q", ["a"], lease="1h")
    await door.publish("a", b"1")
    await door.receive("q")
    receiver = receiver_of(door)
    now = receiver._clock()
    assert receiver.sweep()
    assert door.server._receivers.holding() == 1
    receiver._clock = lambda: now + 3601
    receiver.sweep()
    assert door.server._receivers.holding() == 0


async def test_settings_that_change_hold_for_the_next_message(door: Door) -> None:
    await door.queue("q", ["a"], lease="30s")
    answer = await door("POST", "/v1/queues/q/receive")
    assert answer.json["lease_seconds"] == 30
    assert (await door("PUT", "/v1/subscriptions/q", {"topics": ["a"], "lease": "90s"})).status == 200
    assert (await door("POST", "/v1/queues/q/receive")).json["lease_seconds"] == 90


async def test_a_queue_that_is_deleted_tells_those_who_wait(door: Door) -> None:
    await door.queue("q", ["a"])
    poll = asyncio.create_task(door("POST", "/v1/queues/q/receive?wait=30"))
    await until(lambda: waiting(door) == 1)
    assert (await door("DELETE", "/v1/subscriptions/q")).status == 204
    assert (await poll).status in (404, 409)
    assert (await door("POST", "/v1/queues/q/receive")).code == "unknown_subscription"
    await door.queue("q", ["a"])
    await door.publish("a", b"1")
    assert len(await door.receive("q")) == 1


async def test_stopping_tells_those_who_wait(door: Door) -> None:
    await door.queue("q", ["a"])
    poll = asyncio.create_task(door("POST", "/v1/queues/q/receive?wait=30"))
    await until(lambda: waiting(door) == 1)
    await door.server.stop(1)
    answer = await poll
    assert (answer.status, answer.code) == (503, "shutting_down")
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("max=0", "bad_option"),
        ("max=1001", "bad_option"),
        ("max=many", "bad_option"),
        ("wait=3h", "bad_option"),
        ("wait=-1", "bad_option"),
        ("wait=long", "bad_option"),
        ("wait=nan", "bad_option"),
        ("amx=1", "bad_request"),
    ],
)
async def test_receive_refuses_what_it_does_not_understand(door: Door, query: str, code: str) -> None:
    await door.queue("q", ["a"])
    answer = await door("POST", f"/v1/queues/q/receive?{query}")
    assert (answer.status, answer.code) == (400, code)


@pytest.mark.parametrize("verb", ["receive", "settle", "pause", "resume", "purge", "purge-dead", "redrive", "peek"])
async def test_only_queues_are_worked(door: Door, verb: str) -> None:
    method = "GET" if verb == "peek" else "POST"
    missing = await door(method, f"/v1/queues/none/{verb}", [])
    assert (missing.status, missing.code) == (404, "unknown_subscription")
    assert (await door("PUT", "/v1/subscriptions/s", {"kind": "stream", "topics": ["a"]})).status == 201
    stream = await door(method, f"/v1/queues/s/{verb}", [])
    assert (stream.status, stream.code) == (409, "wrong_kind")


async def test_owners_look_pause_and_purge(door: Door) -> None:
    await door.queue("q", ["a"])
    for i in range(3):
        await door.publish("a", str(i), Content_Type="text/plain")
    peeked = (await door("GET", "/v1/queues/q/peek?limit=2")).json["messages"]
    assert [m["body"] for m in peeked] == ["0", "1"]
    assert "receipt" not in peeked[0]
    assert (await door("POST", "/v1/queues/q/pause")).status == 204
    assert (await door.info("q"))["paused"] is True
    assert await door.receive("q", 10) == []
    assert (await door("POST", "/v1/queues/q/resume")).status == 204
    assert len(await door.receive("q")) == 1
    assert (await door("POST", "/v1/queues/q/purge")).json == {"count": 2}
    assert await door.receive("q") == []


async def test_a_hundred_workers_share_a_backlog(door: Door) -> None:
    await door.queue("q", ["a"])
    for i in range(300):
        await door.publish("a", str(i), Content_Type="text/plain")
    seen: list[str] = []

    async def work() -> None:
        while messages := await door.receive("q", 7, wait=0.3):
            seen.extend(m["body"] for m in messages)
            results = await door.settle("q", *({"receipt": m["receipt"], "outcome": "ack"} for m in messages))
            assert all(r["ok"] for r in results)

    await asyncio.gather(*(work() for _ in range(50)))
    assert sorted(map(int, seen)) == list(range(300))
    assert (await door.info("q"))["acked"] == 300


async def test_large_messages_come_a_few_at_a_time(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_body=1 << 20))
    await door.queue("q", ["a"])
    for _ in range(9):
        await door.publish("a", b"x" * (1 << 20))
    sizes = []
    while messages := await door.receive("q", 9):
        sizes.append(len(messages))
    assert sum(sizes) == 9
    assert max(sizes) <= 8


async def test_a_look_goes_on_behind_an_offset_and_is_bounded_in_bytes(door: Door) -> None:
    await door.queue("q", ["a"])
    for i in range(7):
        await door.publish("a", bytes([48 + i]) * 1_000_000)
    seen: list[int] = []
    pages = 0
    while page := (await door("GET", f"/v1/queues/q/peek?limit=1000&after={seen[-1] if seen else 0}")).json["messages"]:
        seen += [message["offset"] for message in page]
        pages += 1
    assert seen == list(range(1, 8))
    assert pages > 1
    assert (await door.info("q"))["ready"] == 7
