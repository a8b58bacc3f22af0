"""paho-mqtt, with its network loop in a thread of its own."""

import asyncio
from functools import partial
from typing import ClassVar, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.system.mqtt_clients.client import KEPT_SECONDS, Client, Heard, RefusedError, Wish
from tests.system.served import WITHIN


class Paho(Client):
    transport: ClassVar[Literal["tcp", "websockets"]] = "tcp"

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        five = wish.version == 5
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            wish.client_id,
            clean_session=None if five else not wish.kept,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            transport=self.transport,
            reconnect_on_failure=False,
        )
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._done()
        client.on_message = self._on_message
        if wish.username is not None:
            client.username_pw_set(wish.username, wish.password)
        if wish.will is not None:
            client.will_set(*wish.will, qos=1)

    async def open(self) -> None:
        wish = self.wish
        properties = None
        if wish.version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = KEPT_SECONDS if wish.kept else 0
        clean = not wish.kept if wish.version == 5 else paho.MQTT_CLEAN_START_FIRST_ONLY
        connect = partial(self._client.connect, clean_start=clean, properties=properties)
        await asyncio.to_thread(connect, "127.0.0.1", wish.port)
        self._client.loop_start()
        await self._ready

    def _on_connect(self, _c: object, _u: object, _f: object, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            self._done(RefusedError(str(reason)))
        elif self.wish.filters:
            self._client.subscribe(list(self.wish.filters))
        else:
            self._done()

    def _done(self, error: Exception | None = None) -> None:
        done = self._ready.set_result if error is None else self._ready.set_exception
        self._loop.call_soon_threadsafe(done, error)  # type: ignore[arg-type]

    def _on_message(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        heard = Heard(message.topic, message.payload.decode(), message.qos, message.retain)
        self._loop.call_soon_threadsafe(self.heard.put_nowait, heard)

    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        sent = self._client.publish(topic, payload, qos, retain)
        await asyncio.to_thread(sent.wait_for_publish, WITHIN)
        assert sent.is_published()

    async def close(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)


class PahoOverWebSocket(Paho):
    """At `/mqtt`, which is its default."""

    door = "http"
    transport = "websockets"
