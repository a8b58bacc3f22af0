"""A kept session by random schedules: its client comes, goes, is taken over and answers in any order, the broker
crashes and its disk is low. What a receiver may expect holds all the same: QoS 1 at least once, QoS 2 once, never more
in flight than it takes, in order, and nothing is stuck in the end. Retained messages come with each subscription,
beside all else."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from broker.protocols.mqtt.codec.codes import Reason
from tests.protocols.mqtt.door import PATIENCE, Door, open_door
from tests.protocols.mqtt.receiver import Receiver, seeds

STEPS = 120
NAME, QUEUE = "kept", "mqtt/kept"


def outstanding(door: Door) -> int:
    info = door.hub.engine.subscription(QUEUE)
    return info.ready + info.leased


@pytest.mark.parametrize("seed", seeds(6))
async def test_a_kept_session_keeps_what_it_promises(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    published: dict[int, int] = {}
    async with open_door(tmp_path) as door:
        receiver = Receiver(door, chance, NAME, "t/#", alone=True)
        await receiver.begin()

        async def publish() -> None:
            publisher = await door.connect()
            for _ in range(chance.randint(1, 8)):
                number, qos, retain = len(published), chance.choice((1, 2)), chance.random() < 0.2
                topic = f"t/{number % 3}"
                assert await publisher.publish(topic, str(number), qos, retain=retain) is Reason.SUCCESS
                published[number] = qos
                if retain:
                    receiver.retained[topic] = number
            await publisher.leave()

        async def crash() -> None:
            receiver.client = None
            await door.crash()

        async def low_disk() -> None:
            door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
            for _ in range(4):
                await receiver.hear()
                await receiver.answer()
            await receiver.hear()
            door.hub.engine.disk_low = ""  # type: ignore[attr-defined]
            assert receiver.client is None or not receiver.client.ended

        steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, publish),
            (8, receiver.hear),
            (12, receiver.answer),
            (2, receiver.subscribe),
            (3, receiver.connect),
            (2, receiver.lose),
            (1, receiver.leave),
            (1, crash),
            (2, low_disk),
        ]
        weights, deeds = zip(*steps, strict=True)
        for deed in chance.choices(deeds, weights, k=STEPS):
            await deed()
        await receiver.connect()
        receiver.told.clear()
        await receiver.subscribe()
        async with asyncio.timeout(4 * PATIENCE):
            while outstanding(door) or receiver.inbox or not receiver.told >= set(receiver.retained.values()):
                await receiver.hear()
                while receiver.inbox:
                    await receiver.answer()
        for number, qos in published.items():
            if number not in receiver.refused:
                assert receiver.seen[number] >= 1, (number, qos)
            if qos == 2:
                assert receiver.seen[number] <= 1 + receiver.asked[number], (number, qos)
        assert set(receiver.seen) <= set(published)
