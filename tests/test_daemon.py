"""The daemon in this process: what it wires, how it starts, reloads, drains and stops."""

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import broker.doors
import broker.vigil
from broker.auth.principal import BROKER
from broker.config import Config, ConfigError, Problem
from broker.connectors.webhook.send import WebhookSender
from broker.core.position import EARLIEST
from broker.core.subscription import Delivery, Outcome
from broker.daemon import Daemon, StartError
from broker.engine.lock import FolderLock
from broker.hub import Outgoing
from broker.net.activation import inherited_sockets

WITHIN = 10
"""Seconds after which a condition that does not come about fails the test."""


def config(folder: Path, **values: Any) -> Config:
    ports: dict[str, Any] = {door: {"port": 0} for door in ("native", "http", "mqtt")}
    ports |= {"data_dir": folder / "data", "grace": 5}
    return Config.model_validate({**ports, "webhooks": {"allow": ["127.0.0.0/8"]}, **values})


Make = Callable[..., Awaitable[Daemon]]


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Make]:
    """Starts daemons, stops those that still run at the end."""
    running: list[Daemon] = []

    async def start(values: Config | None = None, **options: Any) -> Daemon:
        daemon = Daemon(values or config(tmp_path), environ=options.pop("environ", {}), **options)
        await daemon.start()
        running.append(daemon)
        return daemon

    yield start
    for daemon in running:
        daemon.config = daemon.config.model_copy(update={"grace": 0})
        await daemon.stop()


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(int(WITHIN / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not come about in time")


class Worker:
    """A consumer that keeps what it is handed."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.gone = False

    def deliver(self, delivery: Delivery) -> None:
        self.offsets += [row[0] for row in delivery.rows]

    def detached(self, error: Exception) -> None:
        self.gone = True


async def leased(daemon: Daemon, queue: str) -> tuple[Worker, Any]:
    """Publish a message to the queue and put it in a worker's hand."""
    await daemon.hub.publish(BROKER, [Outgoing("work/1", b"x")])
    worker = Worker()
    attachment = daemon.hub.attach(BROKER, queue, worker)
    attachment.grant(10, 1 << 20)
    await until(lambda: worker.offsets)
    return worker, attachment


WORK: dict[str, Any] = {"queues": {"work": {"topics": ["work/#"]}}}


# Starting


async def test_it_says_where_each_door_is_and_they_are_open(started: Make) -> None:
    said: list[str] = []
    daemon = await started(say=said.append)
    (native,), (http,), (mqtt,) = (daemon.addresses[door] for door in ("native", "http", "mqtt"))
    assert said == [
        f"postroom: native listening on {native}",
        f"postroom: http listening on {http}",
        f"postroom: mqtt listening on {mqtt}",
        "postroom: ready",
    ]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", http)
    _, writer = await asyncio.open_connection(*native.split(":"))
    writer.close()
    await writer.wait_closed()
    async with aiohttp.ClientSession() as session:
        for path in ("/livez", "/readyz"):
            async with session.get(http + path) as response:
                assert response.status == 200


async def test_what_was_published_is_there_after_a_restart(started: Make, tmp_path: Path) -> None:
    daemon = await started(config(tmp_path, **WORK))
    await daemon.hub.publish(BROKER, [Outgoing("work/1", b"x")])
    await daemon.stop()
    again = await started(config(tmp_path, **WORK))
    assert [row[4] for row in await again.engine.peek("work", 10)] == [b"x"]


async def test_a_second_daemon_is_refused_with_the_pid_of_the_first(started: Make, tmp_path: Path) -> None:
    await started()
    with pytest.raises(StartError, match=rf"the daemon with pid {os.getpid()} has the data folder .*; stop it first"):
        await started()
    assert (tmp_path / "data" / "lock").stat().st_mode & 0o777 == 0o600


async def test_a_taken_port_stops_the_start_and_leaves_nothing_behind(started: Make, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"http: cannot listen on 127.0.0.1:{port}: the port is taken"):
            await started(config(tmp_path, http={"port": port}))
    await started()  # the lock is free again


async def test_a_data_folder_that_cannot_be_one_is_told(started: Make, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StartError, match=r"cannot use the data folder .*: there is a file, not a folder"):
        await started()


async def test_a_database_that_is_none_is_told(started: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postroom.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StartError):
        await started()
    FolderLock(tmp_path / "data").acquire()


async def test_a_socket_of_the_service_manager_that_others_reach_is_refused(
    started: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as outside:
        os.dup2(outside.fileno(), 210)
    monkeypatch.setattr(broker.doors, "inherited_sockets", partial(inherited_sockets, first=210))
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
    with pytest.raises(StartError, match="http: others could reach"):
        await started(environ=environ)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(210)


# What is declared


async def test_declared_subscriptions_are_made_and_changed_but_not_touched_when_the_same(
    started: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    values: dict[str, Any] = {
        "queues": {"work": {"topics": ["work/#"], "lease": "5s"}},
        "streams": {"all": {"topics": ["#"]}},
    }
    await (await started(config(tmp_path, **values))).stop()
    assert _declared(caplog) == [("work", True), ("all", True)]
    await (await started(config(tmp_path, **values))).stop()
    assert _declared(caplog) == []
    values["queues"]["work"]["lease"] = "7s"
    daemon = await started(config(tmp_path, **values))
    assert _declared(caplog) == [("work", False)]
    assert daemon.engine.subscription("work").spec.lease == 7_000


def _declared(caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool]]:
    told = [vars(r) for r in caplog.records if r.getMessage() == "declared subscription set"]
    caplog.clear()
    return [(record["subscription"], record["new"]) for record in told]


async def test_a_declaration_that_does_not_fit_what_is_there_is_told_and_stops_nothing(
    started: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await (await started(config(tmp_path, **WORK))).stop()
    topics = {"topics": ["work/#"]}
    daemon = await started(config(tmp_path, streams={"work": topics, "other": topics}))
    assert [info.spec.name for info in daemon.engine.subscriptions()] == ["other", "work"]
    (told,) = [vars(r) for r in caplog.records if r.getMessage() == "declared subscription left as it is"]
    assert (told["subscription"], "work is a queue" in told["error"]) == ("work", True)


# Reload


async def test_reload_takes_up_what_can_be_and_names_the_rest(
    started: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drops = [{"path": str(tmp_path / name), "topic": name} for name in ("a", "b", "c")]
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    new = config(
        tmp_path,
        native={"port": 1},
        log={"level": "debug"},
        webhooks={"timeout": "3s"},
        streams={"all": {"topics": ["#"]}},
        topics={"a/#": {"count": 5}, "b/#": {"durability": "memory"}},
        drop=drops[1:],
    )
    daemon = await started(config(tmp_path, **WORK, drop=drops[:2]), read=lambda: new)
    tasks = dict(daemon._tasks.running)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    caplog.set_level(logging.INFO)
    try:
        await daemon.reload()
        assert root.level == logging.DEBUG
        (told,) = [r for r in caplog.records if r.getMessage() == "configuration taken up"]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    fields = vars(told)
    assert fields["changed"] == ["native", "log", "webhooks", "drop", "queues", "streams", "topics"]
    assert fields["needs_restart"] == ["native", 'topics."b/#".durability']
    assert daemon.engine.policies.of("a/1").retention.count == 5
    assert fields["no_longer_declared_but_kept"] == ["work"]
    assert [info.spec.name for info in daemon.engine.subscriptions()] == ["all", "work"]
    a, b, c = (f"drop {tmp_path / name}" for name in ("a", "b", "c"))
    assert tasks[a].cancelled()
    assert daemon._tasks.running[b] is tasks[b]
    assert not daemon._tasks.running[c].done()
    assert tasks["webhooks"].done()
    assert not daemon._tasks.running["webhooks"].done()
    assert daemon.hub.checks == [daemon._links.webhooks.check]
    assert [w for w in daemon.hub.watchers if isinstance(w.__self__, WebhookSender)] == [daemon._links.webhooks.sync]  # type: ignore[attr-defined]
    assert daemon.config.native.port == 0


async def test_while_webhooks_change_they_are_checked(
    started: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await started(config(tmp_path), read=lambda: config(tmp_path, webhooks={"timeout": "3s"}))
    drain, checks = daemon._links.webhooks.drain, []

    async def noted(grace: float) -> None:
        checks.append(list(daemon.hub.checks))
        await drain(grace)

    monkeypatch.setattr(daemon._links.webhooks, "drain", noted)
    before = daemon._links.webhooks.check
    await daemon.reload()
    assert checks == [[before]]
    assert daemon.hub.checks == [daemon._links.webhooks.check] != [before]


async def test_changed_retention_holds_at_once(started: Make, tmp_path: Path) -> None:
    daemon = await started(config(tmp_path), read=lambda: config(tmp_path, topics={"a/#": {"count": 5}}))
    await daemon.hub.publish(BROKER, [Outgoing("a/1", b"x")] * 12)
    pruning = daemon.engine.upkeep._pruning
    await pruning.step()
    assert len((await daemon.hub.read(BROKER, ["a/1"], EARLIEST, 100)).rows) == 12
    await daemon.reload()
    await pruning.step()
    assert len((await daemon.hub.read(BROKER, ["a/1"], EARLIEST, 100)).rows) == 5


@pytest.mark.parametrize("before", [{}, {"auth": {}}])
async def test_authentication_is_turned_on_and_off_by_a_restart(
    started: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, before: dict[str, Any]
) -> None:
    after: dict[str, Any] = {} if before else {"auth": {}}
    daemon = await started(config(tmp_path, **before), read=lambda: config(tmp_path, **after))
    caplog.set_level(logging.INFO)
    await daemon.reload()
    (told,) = [r for r in caplog.records if r.getMessage() == "configuration taken up"]
    assert vars(told)["needs_restart"] == ["auth"]
    async with aiohttp.ClientSession() as session, session.get(f"{daemon.addresses['http'][0]}/v1/topics") as answer:
        assert answer.status == (401 if before else 200)


async def test_a_reload_with_a_problem_changes_nothing(
    started: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> Config:
        raise ConfigError(tmp_path / "postroom.toml", [Problem("log.level", "must be 'info'")])

    daemon = await started(read=read)
    before = daemon.config
    daemon.request_reload()
    await until(lambda: "configuration not taken up: nothing was changed" in caplog.messages)
    assert daemon.config is before
    assert daemon._more_status()["not_taken_up"] == ["log.level: must be 'info'"]


async def test_a_bridge_that_fails_in_a_reload_keeps_nothing_else_from_being_taken_up(
    started: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = {"filter": "a/#", "direction": "out"}
    bridge = {"name": "up", "address": "mqtt://127.0.0.1:1", "topics": [out]}
    new = config(tmp_path, topics={"a/#": {"count": 5}}, streams={"all": {"topics": ["#"]}}, mqtt_bridge=[bridge])
    daemon = await started(config(tmp_path), read=lambda: new)
    put, failures = daemon.hub.put_subscription, [RuntimeError("the test says so")]

    async def fails_once(*given: Any) -> bool:
        if failures:
            raise failures.pop()
        return await put(*given)

    monkeypatch.setattr(daemon.hub, "put_subscription", fails_once)
    await daemon.reload()
    assert not failures
    assert daemon.engine.policies.of("a/1").retention.count == 5
    assert "all" in [spec.name for spec in daemon.engine.specs()]
    await until(lambda: "bridge.up" in [spec.name for spec in daemon.engine.specs()])


# Stopping


async def test_the_drain_waits_for_what_is_in_hand(started: Make, tmp_path: Path) -> None:
    daemon = await started(config(tmp_path, **WORK))
    worker, attachment = await leased(daemon, "work")
    stopping = asyncio.create_task(daemon.stop())
    for _ in range(20):
        await asyncio.sleep(0.005)
        assert not stopping.done()
    attachment.settle(Outcome.ACK, worker.offsets)
    await asyncio.wait_for(stopping, WITHIN)
    again = await started(config(tmp_path, **WORK))
    assert await again.engine.peek("work", 10) == []


async def test_a_second_signal_ends_the_drain(started: Make, tmp_path: Path) -> None:
    daemon = await started(config(tmp_path, **WORK, grace=3_600))
    worker, _ = await leased(daemon, "work")
    daemon.request_stop()
    stopping = asyncio.create_task(daemon.stop())
    daemon.request_stop()
    await asyncio.wait_for(stopping, WITHIN)
    assert worker.gone
    again = await started(config(tmp_path, **WORK))
    assert [row[4] for row in await again.engine.peek("work", 10)] == [b"x"]


def _takes_connections(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


async def test_while_it_drains_nothing_new_begins(started: Make, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    drop = {"path": tmp_path / "in", "topic": "a", "name": "in"}
    daemon = await started(config(tmp_path, **WORK, drop=[drop]))
    _, attachment = await leased(daemon, "work")
    stopping = asyncio.create_task(daemon.stop())
    await until(lambda: not _takes_connections(daemon.addresses["native"][0]))
    assert {"reload", "drop in"}.isdisjoint(daemon._tasks.running)
    assert not stopping.done()
    attachment.detach()
    await asyncio.wait_for(stopping, WITHIN)


async def test_a_broker_whose_disk_failed_does_not_wait_for_settles(started: Make, tmp_path: Path) -> None:
    daemon = await started(config(tmp_path, **WORK, grace=3_600))
    await leased(daemon, "work")
    daemon.engine.fail(OSError("the disk is gone"))
    await asyncio.wait_for(daemon.stop(), WITHIN)


async def test_when_the_grace_is_over_the_drain_is(started: Make, tmp_path: Path) -> None:
    daemon = await started(config(tmp_path, **WORK, grace=0.1))
    await leased(daemon, "work")
    await asyncio.wait_for(daemon.stop(), WITHIN)


async def test_stopped_it_leaves_no_task_and_no_listener(started: Make, tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    (tmp_path / "in").mkdir()
    daemon = await started(config(tmp_path, **WORK, drop=[{"path": tmp_path / "in", "topic": "a"}]))
    await daemon.stop()
    await asyncio.sleep(0)
    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()
    for address in (*daemon.addresses["native"], *daemon.addresses["http"]):
        host, port = address.removeprefix("http://").split(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)


# Watching


@pytest.fixture
def manager(tmp_path: Path) -> "Manager":
    return Manager(tmp_path / "notify")


class Manager:
    """A service manager that listens."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self.heard: list[list[str]] = []

    def hear(self) -> list[list[str]]:
        """What it was told since the last call."""
        new = []
        try:
            while True:
                new.append(self.socket.recv(4096).decode().split("\n"))
        except BlockingIOError:
            self.heard += new
            return new

    def first(self, key: str) -> list[str]:
        """The values of a key so far."""
        self.hear()
        return [line.partition("=")[2] for lines in self.heard for line in lines if line.startswith(f"{key}=")]


async def test_the_service_manager_hears_of_the_whole_life(started: Make, tmp_path: Path, manager: Manager) -> None:
    daemon = await started(environ=manager.environ, read=lambda: config(tmp_path))
    told = manager.hear()
    assert told[0][0] == "STATUS=recovering the log"
    assert told[-1][:2] == ["READY=1", f"STATUS={daemon._vigil.status()}"]
    assert "native on 127.0.0.1:" in daemon._vigil.status()
    await daemon.reload()
    assert [lines[0] for lines in manager.hear()] == ["RELOADING=1", "READY=1"]
    await daemon.stop()
    assert manager.hear() == [["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=35000000"]]
    manager.socket.close()


async def test_the_watchdog_is_fed_only_as_long_as_the_writer_proves_alive(
    started: Make, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker.vigil, "LOOK", 0.01)
    daemon = await started(environ={**manager.environ, "WATCHDOG_USEC": "30000"})
    await until(lambda: len(manager.first("WATCHDOG")) >= 3)
    daemon.engine.fail(OSError("the disk is gone"))
    await until(lambda: any("the disk is gone" in status for status in manager.first("STATUS")))
    fed = len(manager.first("WATCHDOG"))
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert len(manager.first("WATCHDOG")) == fed
    async with aiohttp.ClientSession() as session:
        for path, expected in (("/livez", 200), ("/readyz", 503)):
            async with session.get(daemon.addresses["http"][0] + path) as response:
                assert response.status == expected
    manager.socket.close()


async def test_without_a_watchdog_no_empty_units_are_committed(started: Make) -> None:
    daemon = await started()
    assert "watchdog" not in daemon._tasks.running


async def test_the_status_tells_of_the_connectors(started: Make, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    hook = {"topics": ["work/#"], "webhook": {"url": "http://127.0.0.1:1/"}}
    drop = {"path": tmp_path / "in", "topic": "a", "name": "in"}
    daemon = await started(config(tmp_path, queues={"hook": hook}, drop=[drop]))
    async with aiohttp.ClientSession() as session:
        await until(lambda: daemon._links.webhooks.status())
        async with session.get(daemon.addresses["http"][0] + "/v1/status") as response:
            status = json.loads(await response.read())
    assert status["webhooks"]["hook"]["state"] == "ok"
    assert status["drop"]["in"]["state"] == "ok"


async def test_the_daemon_s_own_life_is_in_the_audit_trail(started: Make, tmp_path: Path) -> None:
    reads: list[Config | ConfigError] = [config(tmp_path, grace=6), ConfigError(None, [Problem("grace", "is odd")])]

    def read() -> Config:
        found = reads.pop(0)
        if isinstance(found, ConfigError):
            raise found
        return found

    first = await started(read=read)
    await first.reload()
    await first.reload()
    async with aiohttp.ClientSession() as session:
        url = first.addresses["http"][0] + "/v1/subscriptions/q"
        await session.put(url, json={"topics": ["a"]}, headers={"X-Request-Id": "mine"})
    await first.stop()
    again = await started()
    await again.hub.publish(BROKER, [Outgoing("behind/it", b"")])
    page = await again.hub.read(BROKER, ["$sys/audit"], EARLIEST, 100)
    entries = [json.loads(row[4]) for row in page.rows]
    assert [(entry["verb"], entry["outcome"]) for entry in entries] == [
        ("daemon.start", "done"),
        ("config.reload", "done"),
        ("config.reload", "refused"),
        ("subscription.put", "created"),
        ("daemon.stop", "done"),
        ("daemon.start", "done"),
    ]
    assert entries[1]["changed"] == ["grace"]
    assert entries[2]["problems"] == ["grace: is odd"]
    assert (entries[3]["door"], entries[3]["request_id"], entries[3]["address"]) == ("http", "mine", "127.0.0.1")
