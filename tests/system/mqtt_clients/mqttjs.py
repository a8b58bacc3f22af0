"""mqtt.js in Node, over TCP and over WebSocket; `mqttjs.js` is what runs there."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from tests.system.mqtt_clients.client import KEPT_SECONDS, Client, Heard, RefusedError, Wish
from tests.system.mqtt_clients.process import Process

HERE = Path(__file__).parent


def _missing() -> str:
    if shutil.which("node") is None:
        return "node is missing"
    return "" if (HERE / "node_modules" / "mqtt").is_dir() else f"`npm install` was not run in {HERE.name}"


class MqttJs(Client):
    missing = _missing()
    url = "mqtt://127.0.0.1:{}"

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._node = Process(self._said)

    def _said(self, line: str) -> None:
        said = json.loads(line) if line.startswith("{") else {"failed": line}
        if "topic" in said:
            self.heard.put_nowait(Heard(**said))
        else:
            self._answers.put_nowait(said)

    async def _do(self, act: str, **what: Any) -> None:
        self._node.write(json.dumps({"act": act, **what}))
        answer = await self._answers.get()
        if answer != {"done": act}:
            raise RefusedError(answer)

    async def open(self) -> None:
        wish = self.wish
        options: dict[str, Any] = {
            "clientId": wish.client_id,
            "protocolVersion": wish.version,
            "clean": not wish.kept,
            "username": wish.username,
            "password": wish.password,
        }
        if wish.kept and wish.version == 5:
            options["properties"] = {"sessionExpiryInterval": KEPT_SECONDS}
        if wish.will is not None:
            options["will"] = {"topic": wish.will[0], "payload": wish.will[1], "qos": 1, "retain": False}
        await self._node.start(["node", "--no-warnings", str(HERE / "mqttjs.js")])
        filters = {text: {"qos": qos} for text, qos in wish.filters}
        await self._do("open", url=self.url.format(wish.port), options=options, filters=filters)

    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        await self._do("publish", topic=topic, payload=payload, qos=qos, retain=retain)

    async def close(self) -> None:
        await self._do("close")
        await self._node.end()


class MqttJsOverWebSocket(MqttJs):
    door = "http"
    url = "ws://127.0.0.1:{}/mqtt"
