"""The journey of a message, with a real daemon: publish, commit, dispatch, deliver, settle. A tour of the product.

Four orders come in, each by another door; a worker, a stream reader and a partner's webhook get all four. In between
the daemon is killed with kill -9, twice.
"""

import asyncio
import json
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgpack
import pytest
from aiohttp import web
from postroom_client import Client, connect, sync

from broker.connectors.webhook.signing import parse_secret, verify
from tests.system.served import Served
from tests.system.waiting import until

pytestmark = pytest.mark.system

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CONFIG = """
[queues.billing]
topics = ["orders/#"]

[queues.partner]
topics = ["orders/#"]
webhook = {{ url = "http://{partner}/orders", secret = "{secret}" }}

[webhooks]
allow = ["127.0.0.0/8"]

[[drop]]
path = "{folder}"
topic = "orders/dropped"
poll = "50ms"
stable_checks = 1
stable_for = 0
"""


async def test_the_journey_of_a_message(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    async with a_partner() as partner:
        config = CONFIG.format(partner=partner.address, secret=SECRET, folder=tmp_path / "incoming")
        with Served(tmp_path, config) as daemon:
            daemon.ready()
            for publish in (by_client, by_http, by_file, for_later):
                order = await publish(daemon, tmp_path)  # 1. publish: this returns with the broker's answer, and
                assert order in on_disk(daemon, tmp_path)  # 2. commit: what was answered is on disk
            kill(daemon)

        with Served(tmp_path, config) as daemon:
            async with connect(f"postroom://{daemon.ready().address('native')}") as client:
                await until(lambda: is_ready(client, 4))  # 3. dispatch: the fourth when its time has come
                worked_off = await work(client)  # 4. deliver, to a worker,
                followed = await follow(client)  # to the reader of a stream,
                await until(lambda: len(partner.orders) == 4)  # and to a webhook
                assert sorted(worked_off) == sorted(followed) == sorted(partner.orders) == sorted(ORDERS)
                await until(lambda: is_settled(client))  # 5. settle
                receipt = await client.publish("orders/new", {"order": "the fifth"})
            kill(daemon)

        with Served(tmp_path, config) as daemon:
            async with connect(f"postroom://{daemon.ready().address('native')}") as client:
                (left,) = await client.peek("billing")
                assert (left.offset, left.data["order"]) == (receipt.offset, "the fifth")
                assert await follow(client, 5) == [*followed, "the fifth"]


ORDERS = ["by client", "by http", "by file", "for later"]


# 1. publish: four doors


async def by_client(daemon: Served, _: Path) -> str:
    """The native protocol, through the client library."""
    async with connect(f"postroom://{daemon.address('native')}") as client:
        receipt = await client.publish("orders/new", {"order": "by client"}, key="customer-3")
        assert receipt.offset
    return "by client"


async def by_http(daemon: Served, _: Path) -> str:
    url = f"http://{daemon.address('http')}/v1/topics/orders/new/messages"
    async with aiohttp.ClientSession() as session, session.post(url, json={"order": "by http"}) as response:
        assert response.status == 201
        assert (await response.json())["offset"]
    return "by http"


async def by_file(_: Served, folder: Path) -> str:
    """A CSV file in a folder; its answer is that it lies in `done/`."""
    unfinished = folder / "incoming" / "orders.csv.tmp"
    unfinished.write_text("order,total\nby file,42.50\n")
    unfinished.rename(folder / "incoming" / "orders.csv")
    await until((folder / "incoming" / "done" / "orders.csv").exists)
    return "by file"


async def for_later(daemon: Served, _: Path) -> str:
    """Without an event loop, and with a delay: it waits outside the log, just as safe."""

    def publish() -> None:
        with sync.connect(f"postroom://{daemon.address('native')}") as client:
            assert client.publish("orders/new", {"order": "for later"}, delay=0.5).offset is None

    await asyncio.to_thread(publish)
    return "for later"


# 2. commit


def on_disk(daemon: Served, folder: Path) -> list[str]:
    """The orders in a copy of the files as they are at this moment; the daemon holds still for it."""
    daemon.signal(signal.SIGSTOP)
    copy = shutil.copytree(folder / "data", folder / "copy", ignore=shutil.ignore_patterns("*-shm"), dirs_exist_ok=True)
    daemon.signal(signal.SIGCONT)
    db = sqlite3.connect(copy / "postroom.db")
    chunks = db.execute("SELECT bodies FROM chunk").fetchall()
    waiting = db.execute("SELECT body FROM schedule").fetchall()
    db.close()
    bodies = [body for (packed,) in chunks for body in msgpack.unpackb(packed)] + [body for (body,) in waiting]
    found = [json.loads(body) for body in bodies]
    return [message["order"] for message in found if "order" in message]  # the others are the audit trail


def kill(daemon: Served) -> None:
    daemon.signal(signal.SIGKILL)
    assert daemon.ended() == -signal.SIGKILL


# 3. dispatch


async def is_ready(client: Client, count: int) -> bool:
    return bool((await client.subscription("billing"))["ready"] == count)


# 4. deliver


async def work(client: Client) -> list[str]:
    """Leaving the inner block acknowledges."""
    orders: list[str] = []
    async with client.consume("billing") as messages:
        async for message in messages:
            async with message:
                orders.append(message.data["order"])
            if len(orders) == len(ORDERS):
                break
    return orders


async def follow(client: Client, count: int = 4) -> list[str]:
    orders: list[str] = []
    async with client.stream(topics="orders/#", from_="earliest") as messages:
        async for message in messages:
            orders.append(message.data["order"])
            if len(orders) == count:
                break
    return orders


class Partner:
    """Somebody else's system, which is called back. The same order twice is one order."""

    def __init__(self) -> None:
        self.orders: dict[str, str] = {}
        self.address = ""

    async def take(self, request: web.Request) -> web.Response:
        body, headers = await request.read(), request.headers
        id_, timestamp, signature = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        verify([parse_secret(SECRET)], id_, timestamp, signature, body, now=float(timestamp))
        self.orders[json.loads(body)["order"]] = id_
        return web.Response(status=204)


@asynccontextmanager
async def a_partner() -> AsyncIterator[Partner]:
    partner = Partner()
    app = web.Application()
    app.router.add_post("/orders", partner.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    partner.address = "{}:{}".format(*runner.addresses[0])
    try:
        yield partner
    finally:
        await runner.cleanup()


# 5. settle


async def is_settled(client: Client) -> bool:
    """Nothing is left to do in either queue."""
    return not any([(await client.subscription(name))["lag"] for name in ("billing", "partner")])
