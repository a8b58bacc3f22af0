"""One connection to another broker: aiomqtt's client, made to acknowledge only what we say.

aiomqtt hides paho's manual acknowledgement, queues each message for a task of its own, and makes a future for each
publish. This subclass turns the first on and hands messages and acknowledgements straight to the bridge, so that there
is no task, future or await per message. It connects in a thread of its own that dies with the process: one
that hangs must stop neither other bridges nor the end of the daemon. Floor 4.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeGuard, TypeVar

import aiomqtt
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.connectors.mqtt_bridge.memory import Memory
from broker.connectors.mqtt_bridge.options import Address, BridgedTopics, BridgeOptions, BridgeTls
from broker.connectors.mqtt_bridge.translation import properties_of
from broker.core.mqtt import ORIGIN

log = logging.getLogger(__name__)
T = TypeVar("T")

NEVER = 0xFFFFFFFF
"""Session expiry: what waits for us waits as long as the other broker keeps it."""
KEEP_ALIVE_TIMEOUT = 0x8D
META_ROOM = 128 << 10
"""What a packet that we take may have beside a body of the size that we store."""
_GOODBYE = 1.0
"""Seconds for DISCONNECT to go out."""
_NO_LIMIT = 1 << 28
_MOST_UNREAD = 10_000
"""Packets that a socket which was reset may still hold."""
TIMED_OUT, NO_ANSWER = "Operation timed out", "it does not answer"
"""What aiomqtt says, and what it means."""


class BridgeError(Exception):
    """There is no connection, or no longer; the text says why."""


class Ends(Protocol):
    """What a bridge does with what arrives. Called on the loop's thread; must not block or raise."""

    def received(self, message: paho.MQTTMessage) -> None:
        """PUBLISH."""

    def confirmed(self, mid: int, reason: ReasonCode) -> None:
        """PUBACK; with QoS 0, that it was written."""


class BridgeClient(aiomqtt.Client):
    """See the module. `epoch`: of our log, told to a Postroom at the other end; `max_body`: the largest message that we
    store."""

    def __init__(
        self, options: BridgeOptions, address: Address, client_id: str, ends: Ends, epoch: str, max_body: int
    ) -> None:
        self.speaks_5 = options.version == "5"
        super().__init__(
            address.host,
            address.port,
            username=options.user,
            password=options.password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if self.speaks_5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if self.speaks_5 else False,
            clean_start=False if self.speaks_5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            keepalive=options.keep_alive_seconds,
            max_inflight_messages=0,  # none of paho's own: the engine's credit is the window
            properties=_connect_properties(options, epoch, max_body) if self.speaks_5 else None,
            will=aiomqtt.Will(options.notifications, "0", 1, retain=True) if options.notifications else None,
            tls_context=_context(options.tls) if address.tls else None,
            logger=log,
        )
        self.address = address
        self._notifications = options.notifications
        self._ends = ends
        self._client.manual_ack_set(True)
        self.session_present = False
        self.hung_up = False
        """The other side ended the connection: not we, and not silence."""
        self._ending = ""
        self.connack: dict[str, Any] = {}

    # What the other side said in CONNACK

    @property
    def origin(self) -> str | None:
        """The epoch of its log, if it is a Postroom."""
        return next((value for name, value in self.connack.get("UserProperty", ()) if name == ORIGIN), None)

    @property
    def window(self) -> int:
        """What it takes without having answered."""
        return int(self.connack.get("ReceiveMaximum", 65_535))

    @property
    def largest(self) -> int:
        """Bytes of a packet that it takes."""
        return int(self.connack.get("MaximumPacketSize", _NO_LIMIT))

    @property
    def maximum_qos(self) -> int:
        """Of what it takes."""
        return int(self.connack.get("MaximumQoS", 2))

    @property
    def retains(self) -> bool:
        """Does it take retained messages?"""
        return bool(self.connack.get("RetainAvailable", 1))

    # From the connection to its end

    async def open(self) -> None:
        """Connect, be let in and say that we are there. Raises BridgeError."""
        try:
            await self._connect_in_thread()
            await self._be_let_in()
            self._notify("1")
        except (OSError, ValueError, aiomqtt.MqttError) as error:
            self.cut()
            raise BridgeError(self._why(error)) from None
        except asyncio.CancelledError:
            self.cut()
            raise

    async def _be_let_in(self) -> None:
        """Until CONNACK. Not by wait_for, which swallows a cancel that meets it. Raises MqttError."""
        ends = (self._connected, self._disconnected)
        done, _ = await asyncio.wait(ends, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise aiomqtt.MqttError(NO_ANSWER)
        (self._connected if self._connected in done else self._disconnected).result()

    def _why(self, error: Exception) -> str:
        if self.speaks_5 and "protocol version" in str(error).lower():
            return f'{error}; set version = "3.1.1"'
        return NO_ANSWER if str(error) == TIMED_OUT else str(error) or type(error).__name__

    async def _connect_in_thread(self) -> None:
        connected: asyncio.Future[None] = self._loop.create_future()

        def end(error: Exception | None) -> None:
            if connected.done():  # nobody waits any more
                self.cut()
            elif error is not None:
                connected.set_exception(error)
            else:
                connected.set_result(None)

        def connect() -> None:
            failed: Exception | None = None
            try:
                self._client_connect()
            except Exception as error:
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(end, failed)

        threading.Thread(target=connect, name="mqtt_bridge", daemon=True).start()
        await connected

    async def lost(self, within: float) -> None:
        """Returns after so many seconds. Raises BridgeError when the connection is lost until then."""
        done, _ = await asyncio.wait((self._disconnected,), timeout=within)
        if done:
            error = self._disconnected.exception()
            raise BridgeError(self._ending or str(error))

    def fail(self, reason: str) -> None:
        """End the connection: `lost` tells why."""
        if not self._disconnected.done():
            self._disconnected.set_exception(aiomqtt.MqttError(reason))

    def cut(self) -> None:
        """Let go of the socket, at once."""
        self._client._sock_close()
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # it is known

    async def close(self) -> None:
        """Say goodbye if there is time."""
        self._notify("0")
        if not self._disconnected.done() and self._client.disconnect() == paho.MQTT_ERR_SUCCESS:
            await asyncio.wait((self._disconnected,), timeout=_GOODBYE)
        self.cut()

    def _notify(self, state: str) -> None:
        """Are we there? If this gets lost, the will says it."""
        if self._notifications is not None:
            self._client.publish(self._notifications, state, 0, self.retains)

    # Subscriptions

    async def subscribe_all(self, entries: Iterable[BridgedTopics], memory: Memory) -> dict[str, str]:
        """What it did not grant, by filter, in words. Raises BridgeError."""
        refused: dict[str, str] = {}
        for entry in entries:
            settled = memory.settles(entry)
            if settled and not self.speaks_5:  # it would bring again what is retained
                continue
            granted = (await self._answered(self._subscribed(entry, settled=settled)))[0]
            assert isinstance(granted, ReasonCode)
            if granted.value >= 0x80:
                refused[entry.remote] = f"{entry.remote} is not granted: {granted}"
        return refused

    def _subscribed(self, entry: BridgedTopics, *, settled: bool) -> Coroutine[Any, Any, Sequence[int | ReasonCode]]:
        """What was retained comes until it has come for sure; our own messages do not come back."""
        if not self.speaks_5:
            return self.subscribe(entry.remote, entry.qos)
        handling = 1 if settled else 0
        options = SubscribeOptions(entry.qos, noLocal=True, retainAsPublished=True, retainHandling=handling)
        return self.subscribe(entry.remote, options=options)

    async def unsubscribe_all(self, filters: Iterable[str]) -> None:
        """Raises BridgeError."""
        for text in filters:
            await self._answered(self.unsubscribe(text))

    async def _answered(self, asked: Coroutine[Any, Any, T]) -> T:
        """aiomqtt would wait for an answer although the connection is gone. Raises BridgeError."""
        task = self._loop.create_task(asked)
        try:
            await asyncio.wait((task, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await self.lost(0)
            return await task
        except aiomqtt.MqttError as error:
            raise BridgeError(self._why(error)) from None
        finally:
            task.cancel()

    # Messages

    def send(self, topic: str, body: bytes, qos: int, retain: bool, properties: Properties | None) -> int:
        """PUBLISH; returns what PUBACK will name. Raises BridgeError when the connection is gone, ValueError for what
        the protocol cannot carry."""
        info = self._client.publish(topic, body, qos, retain, properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise BridgeError(paho.error_string(info.rc))
        return info.mid

    def acknowledge(self, mids: Iterable[int]) -> None:
        """PUBACK for what is on disk."""
        for mid in mids:
            self._client.ack(mid, 1)

    # What paho calls

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.session_present = flags.session_present
        self.connack = vars(properties) if properties is not None else {}
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._disconnected.done():
            silent = reason_code.value == KEEP_ALIVE_TIMEOUT
            self.hung_up = not silent and reason_code.value != 0
            self._ending = "it has fallen silent" if silent else "it closed the connection"
            if flags.is_disconnect_packet_from_server:
                self._ending += f": {reason_code}"
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError(f"{self._ending} before CONNACK"))
        else:
            super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: "paho.SocketLike") -> None:
        """aiomqtt's would take up one that is closed by then, as the next method's; and reads a packet per event, which
        is not enough where there will be no other."""
        self._loop.call_soon_threadsafe(self._begin_reading, sock)

    def _begin_reading(self, sock: "paho.SocketLike | None") -> None:
        if self._has(sock):
            self._loop.add_reader(sock.fileno(), self._read, sock)
            self._misc_task = self._loop.create_task(self._misc_loop())

    def _has(self, sock: "paho.SocketLike | None") -> "TypeGuard[paho.SocketLike]":
        """Is it the one in use? paho says None of one that was closed while it was dialled."""
        return sock is not None and self._client.socket() == sock

    def _read(self, sock: "paho.SocketLike") -> None:
        """What has come; all of it when it is the last, because uvloop tells once of a socket that was reset, and
        nothing more of it, whatever came before is still unread."""
        try:
            self._client.loop_read()
            while self._client.socket() == sock and _has_more(sock):
                self._client.loop_read()
            if self._client.socket() == sock and (code := _error_of(sock)):
                self._read_rest(sock)
                self.fail(os.strerror(code))
        except Exception as error:
            self.fail(str(error) or type(error).__name__)

    def _read_rest(self, sock: "paho.SocketLike") -> None:
        """Until paho finds the end."""
        for _ in range(_MOST_UNREAD):
            if self._client.socket() != sock:
                return
            self._client.loop_read()

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: "paho.SocketLike") -> None:
        """aiomqtt's would watch a descriptor that has been closed, and may be another's, by the time it does."""
        self._loop.call_soon_threadsafe(self._watch, sock)

    def _watch(self, sock: "paho.SocketLike | None") -> None:
        if self._has(sock):
            self._loop.add_writer(sock.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:
            self.fail(str(error) or type(error).__name__)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._ends.received(message)

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._ends.confirmed(mid, reason_code)


def _has_more(sock: Any) -> bool:
    """Has TLS unpacked more than was read? No event tells of that."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def _error_of(sock: Any) -> int:
    """Why it was reset; 0: it was not."""
    code: int = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return code


def _connect_properties(options: BridgeOptions, epoch: str, max_body: int) -> Properties:
    properties = properties_of(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = NEVER
    properties.ReceiveMaximum = options.inflight
    properties.MaximumPacketSize = max_body + META_ROOM
    properties.UserProperty = (ORIGIN, epoch)
    return properties


def _context(options: BridgeTls) -> ssl.SSLContext:
    """Raises BridgeError naming the file that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate, options.key, options.key_password or "")
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (options.ca, options.certificate, options.key) if path)
        raise BridgeError(f"tls: {error}; look at {files}") from None
    return context
