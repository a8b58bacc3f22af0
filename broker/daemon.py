"""The daemon: the only place that wires the parts, and the only one that knows them all.

It decides the order of starting (lock, recovery, declared subscriptions, connectors, doors, ready) and of stopping
(a drain, then the same backwards), what SIGHUP takes up, and what the service manager is told. Every task that runs as
long as the daemon is named in `_start_tasks` or belongs to `links`. Floor 6.
"""

import asyncio
import logging
import os
import platform
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

from broker import __version__, process
from broker.auth.directory import Directory
from broker.auth.doorkeeper import Strict, Trusting
from broker.auth.first import make_admin
from broker.auth.options import AuthOptions
from broker.auth.principal import BROKER, LOCAL
from broker.config import Config, ConfigError, load_config
from broker.config.change import change
from broker.core.errors import BrokerError, Code
from broker.core.spec import spec_values
from broker.core.subscription import Spec
from broker.doors import Doors
from broker.engine.keyspace import Keyspace
from broker.engine.lock import FolderError, FolderLock
from broker.engine.sqlite.engine import SqliteEngine
from broker.hub import AUTH_KEYS, Hub
from broker.links import Links
from broker.net.activation import ActivationError
from broker.net.listener import ListenError
from broker.observe.access import configure_access_log
from broker.observe.lag import LoopLag
from broker.observe.log import configure_logging
from broker.observe.metrics import FigureCollector, Figures, gauge, registry
from broker.observe.notify import Notifier
from broker.protocols.http.accounts import AccountRoutes
from broker.protocols.http.mqtt import MqttRoutes
from broker.protocols.http.server import HttpServer
from broker.protocols.http.tunnel import TunnelRoutes
from broker.protocols.mqtt.server import MqttServer
from broker.protocols.native.server import NativeServer
from broker.tasks import Tasks, cancelled
from broker.vigil import Vigil

log = logging.getLogger(__name__)

LOOK, DRAIN_LOOK = 1.0, 0.05
"""Seconds between two looks at which tokens have ended, and, while it drains, at what is still in hand."""
MQTT_TUNNEL = ("/mqtt", "MQTT", ("mqtt", "mqttv3.1"))
"""The path at the HTTP door, and the subprotocols (the second is what clients of MQTT 3.1 say)."""
RECOVERY_STEP = 15.0
"""The service manager is asked for so many seconds more, again and again, as long as recovery goes on."""
CLOSING = 30.0
"""Seconds that the service manager is asked for beside the grace, to commit what waits and close the log."""


class StartError(Exception):
    """The daemon cannot start; the text says why and what to do."""


class Daemon:
    """One broker in one loop. `start` and `stop` by themselves for tests; `run` is a process's whole life.

    `say` gets the lines for standard output; `read` reads
    the configuration again on SIGHUP.
    """

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str] | None = None,
        say: Callable[[str], None] | None = None,
        read: Callable[[], Config] | None = None,
    ) -> None:
        self.config = config
        self._environ = os.environ if environ is None else environ
        self._say = say or log.info
        self._read = read or (lambda: load_config(config.source, self._environ))
        self._notifier = Notifier(self._environ)
        self._stack = AsyncExitStack()
        self._lag = LoopLag()
        self._tasks = Tasks()
        self._stop_wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._stopped = False
        self._not_taken_up: list[str] = []

    # Life

    async def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, drain, stop. A second signal ends the drain. Raises StartError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        starting = asyncio.create_task(self.start(), name="start")
        stopping = asyncio.create_task(self._stop_wanted.wait(), name="stop wanted")
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        try:
            await starting
            process.settle_memory()
            await stopping
            await self.stop()
        except asyncio.CancelledError:
            log.info("stopped before it was ready")
        finally:
            stopping.cancel()

    def request_stop(self) -> None:
        """Drain and stop; asked again, do not wait for what is in hand."""
        if self._stop_wanted.is_set():
            self._hurry.set()
        self._stop_wanted.set()

    def request_reload(self) -> None:
        """What SIGHUP does."""
        self._reload_wanted.set()

    async def start(self) -> None:
        """Everything up to ready. Raises StartError; then nothing is left running."""
        try:
            await self._start()
        except BaseException as error:
            await self._stack.aclose()
            if isinstance(error, (FolderError, ListenError, ActivationError, BrokerError, OSError, sqlite3.Error)):
                raise StartError(_reason(error)) from error
            raise
        self._announce()

    async def _start(self) -> None:
        config = self.config
        lock = FolderLock(config.data_dir)
        lock.acquire()
        self._stack.callback(lock.release)
        self.engine = SqliteEngine(config.data_dir, config.engine.sqlite, config.policies())
        await self._recover()
        self._stack.push_async_callback(self.engine.stop)
        self.hub = Hub(self.engine, config.limits, audit=True)
        await self.hub.retained.load()
        self._vigil = Vigil(self.hub, self._notifier, lambda: self.addresses)
        self._links = Links(self.hub, self._tasks)
        self._stack.push_async_callback(self._tasks.end)
        await self._open_directory()
        self._links.start_webhooks(config.webhooks)
        await self._declare(config.specs())
        self._links.start_drops(config.drop)
        await self._links.start_bridges(config.mqtt_bridge)
        await self._open_doors()
        self._start_tasks()

    async def _recover(self) -> None:
        """Start the engine; the service manager hears that it is under way."""
        starting = asyncio.ensure_future(self.engine.start())
        try:
            while not starting.done():
                self._notifier.starting("recovering the log", 2 * RECOVERY_STEP)
                await asyncio.wait((starting,), timeout=RECOVERY_STEP)
        finally:
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting

    def _announce(self) -> None:
        for door, addresses in self.addresses.items():
            for address in addresses:
                self._say(f"postroom: {door} listening on {address}")
        self.hub.record(BROKER, "daemon.start", "", more={"version": __version__, "doors": self.addresses})
        self._say("postroom: ready")
        self._notifier.ready(self._vigil.status())
        log.info(
            "ready",
            extra={"version": __version__, "pid": os.getpid(), "data_dir": str(self.config.data_dir.absolute())},
        )

    async def stop(self) -> None:
        """Drain, commit what waits, close. Each step is taken, whatever the one before it did. Once is enough."""
        if self._stopped:
            return
        self._stopped = True
        grace = self.config.grace / 1000
        self._notifier.stopping("draining", grace + CLOSING)
        log.info("draining", extra={"grace_ms": self.config.grace})
        await self._tasks.end("reload")  # nothing new begins
        await self._links.close_sources()
        await self._drain(grace)
        self.hub.record(BROKER, "daemon.stop", "")
        await self._stack.aclose()
        log.info("stopped")

    async def _drain(self, grace: float) -> None:
        """Let everybody finish what is in hand, for as long as the grace lasts and nobody hurries us."""
        self._native.drain()
        self._mqtt.drain()
        work = [
            asyncio.create_task(self._http.stop(grace), name="drain http"),
            asyncio.create_task(self._links.webhooks.drain(grace), name="drain webhooks"),
            asyncio.create_task(self._until_settled(), name="drain leases"),
        ]
        drained = asyncio.create_task(asyncio.wait(work), name="drained")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait((drained, hurry), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            log.warning("not everything in hand was settled; it is handed out again after the next start")
        await cancelled(drained, hurry, *work)

    async def _until_settled(self) -> None:
        """Until no message is in a worker's hand and no unit waits for the disk, or nothing can be settled any more."""
        while True:
            stats = self.engine.stats()
            if stats.state == "failed":
                return
            if not stats.pending_units and not any(i.leased for i in self.engine.subscriptions()):
                return
            await asyncio.sleep(DRAIN_LOOK)

    # Tasks

    def _start_tasks(self) -> None:
        self._lag.start()
        self._stack.callback(self._lag.stop)
        self._tasks.keep("state", self._vigil.watch_state)
        self._tasks.keep("strain", self._doors.strain.run)
        self._tasks.keep("reload", self._reload_on_request)
        self._tasks.keep("certificates", self._doors.watch_certificates)
        self._tasks.keep("tokens", self._expire_tokens)
        self._tasks.keep("retained", self.hub.retained.watch)
        if self._notifier.watchdog_seconds is not None:
            self._tasks.keep("watchdog", self._vigil.feed_watchdog)

    async def _expire_tokens(self) -> None:
        """Tokens end in time for those, too, who are connected."""
        while True:
            self.directory.expire()
            await asyncio.sleep(LOOK)

    # Who may do what

    async def _open_directory(self) -> None:
        """Load who there is. Without `[auth]` it is kept and asked nothing, so that it can be made ready before."""
        self.directory = Directory(Keyspace(self.engine, AUTH_KEYS), self.hub.wall)
        await self.directory.load()
        self.directory.regranted.append(self.hub.regranted)
        options = self.config.auth
        self._strict = Strict(self.directory, options or AuthOptions(), time.monotonic)
        self._stack.callback(self._strict.close)
        if options is not None and not self.directory.has_admin(frozenset(options.certificates.values())):
            path = (await make_admin(self.directory, self.config.data_dir)).absolute()
            self.hub.record(BROKER, "admin.make", str(path))
            self._say(f"postroom: nobody was an admin; a token of one is in {path}, for you alone. Use it by:")
            self._say(f"postroom:   export POSTROOM_TOKEN_FILE={path}")

    # Doors

    async def _open_doors(self) -> None:
        """Listen everywhere, then serve."""
        config, doors = self.config, Doors(self.config, self.hub.flow.limited)
        self._doors = doors
        self.directory.ended.append(doors.dismiss)
        doorkeeper = Trusting() if config.auth is None else self._strict
        sockets = doors.open(self._environ, self._stack)
        self._native = NativeServer(self.hub, config.native, doors.admission, doors.tls.get("native"), doorkeeper)
        self._mqtt = MqttServer(
            self.hub,
            config.mqtt,
            doors.admission,
            doors.tls.get("mqtt"),
            doorkeeper,
            (lambda _: LOCAL) if config.auth is None else self.directory.principal,
        )
        self._http = HttpServer(
            self.hub,
            config.http,
            admission=doors.admission,
            tls=doors.tls.get("http"),
            doorkeeper=doorkeeper,
            routes=[
                *AccountRoutes(self.hub, self.directory, self._strict.passwords).routes(),
                *(TunnelRoutes(*MQTT_TUNNEL, self._mqtt.connection).routes() if config.mqtt.websocket else ()),
                *MqttRoutes(self.hub, self._mqtt.clients).routes(),
            ],
            more=self._more_status,
            secret=self._links.secret,
            collected=registry(FigureCollector(self._figures, {"loop_lag_seconds": self._lag.seconds})),
        )
        await self._native.start(sockets["native"])
        self._stack.push_async_callback(self._native.stop)
        await self._mqtt.start(sockets["mqtt"])
        self._stack.push_async_callback(self._mqtt.stop)
        await self._http.start(sockets["http"])
        self._stack.push_async_callback(self._http.stop, 0)

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Where each door is reached, once it is open."""
        return self._doors.addresses

    def _more_status(self) -> dict[str, Any]:
        """What `/v1/status` says beside the engine's numbers."""
        return {
            **self._links.status(),
            "mqtt": self._mqtt.status(),
            "tls": self._doors.status(),
            "not_taken_up": self._not_taken_up,
        }

    def _figures(self) -> list[Figures]:
        """What `/metrics` says beside the engine's and the HTTP door's numbers."""
        build = {(__version__, platform.python_version()): 1.0}
        return [
            gauge("build_info", "The program that runs; always 1", ("version", "python"), build),
            *self._doors.figures(),
            *self._mqtt.figures(),
            *self._links.figures(),
        ]

    # Configuration

    async def _declare(self, specs: list[Spec]) -> None:
        """Make the declared subscriptions what the file says. One that cannot be is told and left as it is."""
        existing = {spec.name: spec for spec in self.engine.specs()}
        for spec in specs:
            before = existing.get(spec.name)
            if before is not None and spec_values(before) == spec_values(spec) and before.kind is spec.kind:
                continue
            try:
                await self.hub.put_subscription(BROKER, spec)
            except BrokerError as error:
                log.error("declared subscription left as it is", extra={"subscription": spec.name, "error": error.text})  # noqa: TRY400
            else:
                log.info("declared subscription set", extra={"subscription": spec.name, "new": before is None})

    async def _reload_on_request(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await self.reload()

    async def reload(self) -> None:
        """Read the configuration again and take up what can be while running; with a problem in it nothing changes."""
        self._notifier.reloading()
        try:
            await self._take_up(self._read())
        except ConfigError as error:
            problems = self._not_taken_up = [str(problem) for problem in error.problems]
            log.error("configuration not taken up: nothing was changed", extra={"problems": problems})  # noqa: TRY400
            self.hub.record(BROKER, "config.reload", str(self.config.source or ""), "refused", {"problems": problems})
        finally:
            self._notifier.ready(self._vigil.status())

    async def _take_up(self, new: Config) -> None:
        old, step = self.config, change(self.config, new)
        waits = step.waits + self._doors.take_up(new)
        self.config = step.config
        if step.config.auth is not None:
            self._strict.take_up(step.config.auth)
        if "log" in step.changed or new.secrets != old.secrets:
            configure_logs(new)
        await self._links.take_up(old, new, step.changed)
        self.engine.policies = new.policies()
        await self._declare(new.specs())
        undeclared = sorted({s.name for s in old.specs()} - {s.name for s in new.specs()})
        refused = self._not_taken_up = self._doors.refused
        more = {"changed": step.changed, "needs_restart": waits, "not_taken_up": refused}
        level, text = (
            (logging.WARNING, "configuration taken up, but not all of it")
            if refused
            else (logging.INFO, "configuration taken up")
        )
        log.log(level, text, extra={**more, "no_longer_declared_but_kept": undeclared})
        self.hub.record(BROKER, "config.reload", str(new.source or ""), more=more)


def _reason(error: Exception) -> str:
    """Why it cannot start. Of a file that cannot be used the detail says all: nothing was confirmed yet, or refused."""
    if not isinstance(error, BrokerError):
        return str(error)
    return error.detail if error.code is Code.STORAGE_FAILED else error.text


def configure_logs(config: Config) -> None:
    """All that is logged, as the configuration says."""
    configure_logging(config.log, config.secrets)
    configure_access_log(config.log.access)
