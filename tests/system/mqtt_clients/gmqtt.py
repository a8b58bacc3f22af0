"""gmqtt: asyncio, with a codec of its own."""

import asyncio
from contextlib import suppress
from typing import Any

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError
from gmqtt.storage import PersistentStorage

from tests.system.mqtt_clients.client import KEPT_SECONDS, Client, Heard, RefusedError, Wish


class Gmqtt(Client):
    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self._subscribed = asyncio.Event()
        self._unanswered = PersistentStorage()
        five = wish.version == 5
        self._client = client = gmqtt.Client(
            wish.client_id,
            clean_session=not wish.kept,
            will_message=None if wish.will is None else gmqtt.Message(*wish.will, qos=1),
            persistent_storage=self._unanswered,
            **({"session_expiry_interval": KEPT_SECONDS} if wish.kept and five else {}),
        )
        client.set_config({"reconnect_retries": 0})
        client.on_message = self._on_message
        client.on_subscribe = lambda *_: self._subscribed.set()
        if wish.username is not None:
            client.set_auth_credentials(wish.username, wish.password)

    async def open(self) -> None:
        version = MQTTv50 if self.wish.version == 5 else MQTTv311
        try:
            await self._client.connect("127.0.0.1", self.wish.port, version=version)
        except MQTTConnectError as error:
            raise RefusedError(str(error)) from error
        if self.wish.filters:
            self._client.subscribe([gmqtt.Subscription(text, qos) for text, qos in self.wish.filters])
            await self._subscribed.wait()

    def _on_message(self, _: object, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> int:
        self.heard.put_nowait(Heard(topic, payload.decode(), qos, bool(properties.get("retain"))))
        return 0

    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain)
        await self._unanswered.wait_empty()

    async def close(self) -> None:
        with suppress(OSError):
            await self._client.disconnect()
