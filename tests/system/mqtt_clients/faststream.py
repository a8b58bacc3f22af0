"""FastStream's MQTT broker, which speaks by zmqtt: handlers that are subscribed before it starts."""

import logging

import zmqtt
from faststream.mqtt import MQTTBroker, MQTTMessage
from faststream.security import SASLPlaintext

from tests.system.mqtt_clients.client import KEPT_SECONDS, Client, Heard, RefusedError, Wish


class FastStream(Client):
    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self._broker = broker = MQTTBroker(
            f"mqtt://127.0.0.1:{wish.port}",
            client_id=wish.client_id,
            clean_session=not wish.kept,
            session_expiry_interval=KEPT_SECONDS if wish.kept and wish.version == 5 else 0,
            version="5.0" if wish.version == 5 else "3.1.1",
            will=None if wish.will is None else _will(*wish.will),
            security=None if wish.username is None else SASLPlaintext(wish.username, wish.password or ""),
            reconnect=zmqtt.ReconnectConfig(enabled=False),
            log_level=logging.DEBUG,
        )
        for text, qos in wish.filters:
            group, _, topic = text.removeprefix("$share/").partition("/")
            if text.startswith("$share/"):
                broker.subscriber(topic, qos=zmqtt.QoS(qos), shared=group)(self._on_message)
            else:
                broker.subscriber(text, qos=zmqtt.QoS(qos))(self._on_message)

    async def _on_message(self, _: str, message: MQTTMessage) -> None:
        raw = message.raw_message
        self.heard.put_nowait(Heard(raw.topic, raw.payload.decode(), raw.qos, raw.retain))

    async def open(self) -> None:
        try:
            await self._broker.start()
        except zmqtt.MQTTConnectError as error:
            raise RefusedError(str(error)) from error

    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        await self._broker.publish(payload, topic, qos=zmqtt.QoS(qos), retain=retain)

    async def close(self) -> None:
        await self._broker.stop()


def _will(topic: str, payload: str) -> zmqtt.Will:
    return zmqtt.Will(topic=topic, payload=payload.encode(), qos=zmqtt.QoS.AT_LEAST_ONCE, retain=False)
