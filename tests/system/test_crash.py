"""kill -9 under load, again and again, at moments drawn from a seed: nothing that was answered is undone.

Each round is one life of the daemon on the same folder, ended in the middle of things: right after a publish left, a
confirm came, a delivery came, a settle left. In the end every publisher finishes, the queues are worked off, and the
history is judged. POSTROOM_PROOF_ROUNDS sets the rounds of the long campaign, POSTROOM_PROOF_SEED its seed.
"""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from random import Random

import pytest
from postroom_client import Backoff, Client, connect

from tests.system import frames
from tests.system.frames import Link, greeted
from tests.system.load import Load, Moment
from tests.system.served import WITHIN, Served
from tests.system.verdict import assert_every_promise_was_kept
from tests.system.waiting import until

pytestmark = pytest.mark.system

MOMENTS: tuple[Moment, ...] = ("published", "confirmed", "delivered", "settled")


class Killer:
    """Kills the process at the `count`th moment of a kind; half the time nothing of its last words is heard."""

    def __init__(self, load: Load, served: Served, moment: Moment, count: int) -> None:
        self._load = load
        self._served = served
        self._moment = moment
        self._left = count
        self.done = asyncio.Event()

    def __call__(self, moment: Moment) -> None:
        if moment == self._moment and not self.done.is_set():
            self._left -= 1
            if self._left <= 0:
                self._served.signal(signal.SIGKILL)
                self._load.cut = self._load.random.random() < 0.5
                self.done.set()


async def campaign(folder: Path, seed: int, rounds: int) -> Load:
    load, random = Load(seed), Random(seed)
    for round_ in range(rounds):
        with Served(folder) as served:
            load.address = served.ready().address("native")
            if not round_:
                await load.declare()
            killer = Killer(load, served, random.choice(MOMENTS), random.randrange(1, 400))
            async with load.life(load.address), asyncio.timeout(60):
                load.on = killer
                await killer.done.wait()
                assert served.ended() == -signal.SIGKILL
    load.on = lambda moment: None
    with Served(folder) as served:
        address = served.ready().address("native")
        await load.finish(address)
        await assert_every_promise_was_kept(load, address)
    return load


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_under_load_it_keeps_every_promise(tmp_path: Path, seed: int) -> None:
    load = await campaign(tmp_path, seed, rounds=4)
    assert len(load.history.confirmed) > 300
    assert len(load.history.events) > 600


@pytest.mark.proof
async def test_killed_under_load_for_long(tmp_path: Path) -> None:
    rounds, seed = int(os.environ.get("POSTROOM_PROOF_ROUNDS", "60")), int(os.environ.get("POSTROOM_PROOF_SEED", "0"))
    for part in range(-(-rounds // 10)):
        folder = tmp_path / str(part)
        folder.mkdir()
        await campaign(folder, seed + part, rounds=min(10, rounds - 10 * part))


async def test_a_file_killed_in_the_middle_is_published_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [str(i) for i in range(400)]
    (folder / "a.csv").write_text("\n".join(["n", *rows]))
    config = DROP.format(folder)
    for come in (1, 30, 150):
        with Served(tmp_path, config) as served:
            async with greeted(served.ready().address("native")) as link:
                await until_there(link, come)
            served.signal(signal.SIGKILL)
            assert served.ended() == -signal.SIGKILL
            assert not list(folder.glob("done/*"))
    with Served(tmp_path, config) as served:
        async with greeted(served.ready().address("native")) as link:
            await until_there(link, len(rows))
            await until(lambda: (folder / "done" / "a.csv").exists())
            page = await link.ask("read", topics=["rows"], limit=1_000)
            assert [json.loads(row[4])["n"] for row in page["rows"]] == rows


DROP = """
[engine.sqlite]
fsync_delay = 0.01
[[drop]]
path = "{}"
topic = "rows"
poll = "50ms"
stable_checks = 1
stable_for = 0
batch = 10
"""


async def until_there(link: Link, count: int) -> None:
    """So many rows are in the log."""
    link.send(frames.ATTACH, 1, None, {"topics": ["rows"], "from": "earliest", "credit": count})
    while count > 0:
        count -= len((await link.hear_kind(frames.DELIVER))[3])


async def test_the_client_library_goes_on_where_it_was(tmp_path: Path) -> None:
    """Publishing and consuming by its public words only, over three kills: each message is there once, in order, and
    was worked off."""
    total, port = 3_000, "0"
    kills = [300, 900, 1_800]
    done: set[int] = set()
    with contextlib.ExitStack() as lives:
        served = lives.enter_context(Served(tmp_path, "[queues.work]\ntopics = ['work']")).ready()
        address = served.address("native")
        port = address.rpartition(":")[2]
        async with connect(f"postroom://{address}", backoff=Backoff(initial=0.01, cap=0.1)) as client:
            reading = asyncio.create_task(work_off(client, done, total))
            receipts = []
            for number in range(total):
                receipts.append(await client.publish_soon("work", str(number)))
                if kills and number == kills[0]:
                    await receipts[number - 50]
                    served.signal(signal.SIGKILL)
                    assert served.ended() == -signal.SIGKILL
                    kills.pop(0)
                    same = {"POSTROOM_NATIVE__PORT": port}
                    served = lives.enter_context(Served(tmp_path, served.config.read_text(), same)).ready()
            await client.flush()
            assert all([await receipt for receipt in receipts])
            async with asyncio.timeout(WITHIN):
                await reading
            page = await client.read("work", limit=10_000)
            assert [int(message.data) for message in page.messages] == list(range(total))
            info = await client.subscription("work")
            assert (info["lag"], info["retried"], info["dead"]) == (0, 0, 0)


async def work_off(client: Client, done: set[int], total: int) -> None:
    async with client.consume("work") as deliveries:
        async for message in deliveries:
            async with message:
                done.add(int(message.data))
            if len(done) == total:
                return
