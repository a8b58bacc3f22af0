"""aiomqtt: asyncio, over paho."""

import asyncio
from contextlib import suppress
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.system.mqtt_clients.client import KEPT_SECONDS, Client, Heard, RefusedError, Wish


class Aiomqtt(Client):
    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self._listening: asyncio.Task[None] | None = None
        session: dict[str, Any] = {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": not wish.kept}
        if wish.version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = KEPT_SECONDS if wish.kept else 0
            session = {
                "protocol": aiomqtt.ProtocolVersion.V5,
                "clean_start": not wish.kept,
                "properties": properties,
            }
        self._client = aiomqtt.Client(
            "127.0.0.1",
            wish.port,
            identifier=wish.client_id,
            username=wish.username,
            password=wish.password,
            will=None if wish.will is None else aiomqtt.Will(*wish.will, qos=1),
            **session,
        )

    async def open(self) -> None:
        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as error:
            raise RefusedError(str(error)) from error
        self._listening = asyncio.create_task(self._listen())
        if self.wish.filters:
            await self._client.subscribe(list(self.wish.filters))

    async def _listen(self) -> None:
        with suppress(aiomqtt.MqttError):  # the connection is lost
            async for message in self._client.messages:
                assert isinstance(message.payload, bytes)
                heard = Heard(str(message.topic), message.payload.decode(), message.qos, message.retain)
                self.heard.put_nowait(heard)

    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        await self._client.publish(topic, payload, qos, retain)

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
            with suppress(aiomqtt.MqttError):
                await self._client.__aexit__(None, None, None)
