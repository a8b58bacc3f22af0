"""What several clients share or read by its name, by random schedules: they come, go, answer late or with a refusal,
and the broker crashes. Nothing is lost, nobody is sent more than he takes, and nothing is stuck in the end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from broker.auth.principal import LOCAL
from broker.core.position import EARLIEST
from broker.protocols.mqtt.codec.codes import Reason
from tests.protocols.mqtt.door import PATIENCE, Door, open_door
from tests.protocols.mqtt.receiver import Receiver, seeds

STEPS = 100
SEEDS = seeds(4)


async def course(door: Door, chance: Random, receivers: Sequence[Receiver]) -> set[int]:
    """Things happen; the numbers of what was published."""
    published: set[int] = set()

    async def publish() -> None:
        publisher = await door.connect()
        for _ in range(chance.randint(1, 8)):
            number = len(published)
            assert await publisher.publish(f"t/{number % 3}", str(number), chance.choice((1, 2))) is Reason.SUCCESS
            published.add(number)
        await publisher.leave()

    async def crash() -> None:
        for receiver in receivers:
            receiver.client = None
        await door.crash()

    async def time_passes() -> None:
        await door.advance(chance.choice((0.5, 3, 40)))

    steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [(6, publish), (2, time_passes), (1, crash)]
    for receiver in receivers:
        await receiver.begin()
        steps += [(8, receiver.hear), (12, receiver.answer), (3, receiver.connect), (2, receiver.subscribe)]
        steps += [(2, receiver.lose), (1, receiver.leave)]
    weights, deeds = zip(*steps, strict=True)
    for deed in chance.choices(deeds, weights, k=STEPS):
        await deed()
    for receiver in receivers:
        receiver.refusals = ()
        await receiver.connect()
    return published


async def work_off(door: Door, receivers: Sequence[Receiver], done: Callable[[], bool]) -> None:
    """All take and answer what comes, until it is done."""
    async with asyncio.timeout(4 * PATIENCE):
        while not done():
            await door.advance(1)
            for receiver in receivers:
                await receiver.hear()
                while receiver.inbox:
                    await receiver.answer()


def waiting(door: Door, name: str) -> int:
    info = door.hub.engine.subscription(name)
    return info.ready + info.leased + info.delayed


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_queue_is_worked_off(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    async with open_door(tmp_path) as door:
        retry = {"initial": "1s", "jitter": 0, "max_attempts": 3}
        await door.world.subscribe("q", "t/#", lease="30s", retry=retry, max_deliveries=3)
        receivers = [Receiver(door, chance, f"worker{i}", "$queue/q", 1) for i in range(2)]
        for receiver in receivers:
            receiver.refusals = (Reason.UNSPECIFIED_ERROR, Reason.NOT_AUTHORIZED)
        published = await course(door, chance, receivers)
        await work_off(door, receivers, lambda: not waiting(door, "q"))
        dead = {int(row[4]) for row in (await door.hub.read(LOCAL, ["$dead/q"], EARLIEST, 1_000)).rows}
        seen = set().union(*(receiver.seen for receiver in receivers))
        assert seen | dead == published
        killed = dead.difference(*(receiver.refused for receiver in receivers))
        assert len(killed) < len(published) / 4, "but for those that were refused or killed a client, all were taken"


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_group_takes_all(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    async with open_door(tmp_path) as door:
        receivers = [Receiver(door, chance, f"member{i}", "$share/g/t/#") for i in range(3)]
        published = await course(door, chance, receivers)
        (name,) = door.server.sessions.groups.names()
        await work_off(door, receivers, lambda: not waiting(door, name))
        assert set().union(*(receiver.seen for receiver in receivers)) == published


@pytest.mark.parametrize("text", ["$stream/t/#", "$stream/s"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_stream_is_read_to_its_end(tmp_path: Path, seed: int, text: str) -> None:
    chance = Random(seed)
    async with open_door(tmp_path) as door:
        await door.world.subscribe("s", "t/#", kind="stream")
        reader = Receiver(door, chance, "reader", text, alone=True)
        published = await course(door, chance, [reader])
        await work_off(door, [reader], lambda: set(reader.seen) == published)
