"""mosquitto_sub and mosquitto_pub of Debian: a process that listens, and one for each message."""

import asyncio
import shutil

from tests.system.mqtt_clients.client import KEPT_SECONDS, Client, Heard, RefusedError, Wish
from tests.system.mqtt_clients.process import Process

HEARD = "heard %q %r %t %p"
NOTHING = "nothing/of/that/name"
"""mosquitto_sub insists on a filter, also where a session has its own."""


class Mosquitto(Client):
    missing = "" if shutil.which("mosquitto_sub") else "mosquitto_pub and mosquitto_sub are missing (mosquitto-clients)"

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self._subscribed = asyncio.Event()
        self._refused = ""
        self._sub: Process | None = None
        self._common = ["-p", str(wish.port), "-V", "mqttv5" if wish.version == 5 else "mqttv311"]
        for flag, value in (("-u", wish.username), ("-P", wish.password)):
            if value is not None:
                self._common += [flag, value]

    async def open(self) -> None:
        wish = self.wish
        command = ["stdbuf", "-oL", "mosquitto_sub", *self._common, "-d", "-F", HEARD, "-i", wish.client_id]
        if wish.kept:
            command += ["-c", *(["-x", str(KEPT_SECONDS)] if wish.version == 5 else [])]
        if wish.will is not None:
            command += ["--will-topic", wish.will[0], "--will-payload", wish.will[1], "--will-qos", "1"]
        for text, _ in wish.filters or [(NOTHING, 0)]:
            command += ["-t", text]
        command += ["-q", str(max((qos for _, qos in wish.filters), default=0))]
        self._sub = Process(self._said)
        await self._sub.start(command)
        await self._subscribed.wait()
        if self._refused:
            raise RefusedError(self._refused)

    def _said(self, line: str) -> None:
        kind, *rest = line.split(" ", 4)
        if kind == "heard":
            qos, retain, topic, payload = rest
            self.heard.put_nowait(Heard(topic, payload, int(qos), retain == "1"))
        elif line.startswith("Subscribed"):
            self._subscribed.set()
        elif line.startswith("Connection error"):
            self._refused = line
            self._subscribed.set()

    async def publish(self, topic: str, payload: str, qos: int, *, retain: bool = False) -> None:
        command = ["mosquitto_pub", *self._common, "-t", topic, "-m", payload, "-q", str(qos)]
        process = await asyncio.create_subprocess_exec(*command, *(["-r"] if retain else []))
        assert await process.wait() == 0

    async def close(self) -> None:
        if self._sub is not None:
            await self._sub.end()
