"""SIGTERM under load, and a daemon that stands still for longer than its leases last: no loss, no attempt too many."""

import asyncio
import signal
from pathlib import Path
from random import Random

import pytest

from tests.system.history import Delivered, Settling
from tests.system.load import Load, Moment
from tests.system.served import Served
from tests.system.verdict import assert_every_promise_was_kept

pytestmark = pytest.mark.system

LEASE = 0.3
"""Seconds; in the tests of a daemon that stands still."""


class Countdown:
    """Over at the `count`th moment of a kind."""

    def __init__(self, moment: Moment, count: int) -> None:
        self._moment = moment
        self._left = count
        self.over = asyncio.Event()

    def __call__(self, moment: Moment) -> None:
        self._left -= moment == self._moment
        if self._left <= 0:
            self.over.set()


async def test_terminated_under_load_it_drains_and_counts_no_attempt(tmp_path: Path) -> None:
    load, random = Load(3), Random(3)
    for round_ in range(3):
        with Served(tmp_path, 'grace = "10s"') as served:
            load.address = served.ready().address("native")
            if not round_:
                await load.declare()
            load.on = countdown = Countdown(
                random.choice(("confirmed", "delivered", "settled")), random.randrange(100, 400)
            )
            async with load.life(load.address), asyncio.timeout(30):
                await countdown.over.wait()
                served.signal(signal.SIGTERM)
                assert await asyncio.to_thread(served.ended) == 0
            assert not [line for line in served.log if "not everything in hand was settled" in line]
    with Served(tmp_path) as served:
        address = served.ready().address("native")
        await load.finish(address)
        await assert_every_promise_was_kept(load, address)
    assert len(load.history.confirmed) > 200


async def test_standing_still_for_longer_than_a_lease_it_loses_nothing(tmp_path: Path) -> None:
    """Workers settle while the daemon is stopped; it finds their settles and the leases that ran out together. Which it
    sees first depends on what it was doing: again, until leases have run out."""
    load = Load(4, lease=f"{LEASE}s", most_attempts=50)
    with Served(tmp_path) as served:
        address = served.ready().address("native")
        load.address = address
        await load.declare()
        async with load.life(address), asyncio.timeout(30):
            for round_ in range(20):
                if round_ > 1 and ran_out(load):
                    break
                load.on = countdown = Countdown("delivered", 50)
                await countdown.over.wait()
                served.signal(signal.SIGSTOP)
                await asyncio.sleep(2 * LEASE)  # nothing can happen that could be waited for
                served.signal(signal.SIGCONT)
            load.on = countdown = Countdown("confirmed", 50)
            await countdown.over.wait()
        await load.finish(address)
        await assert_every_promise_was_kept(load, address, stalled=True)
    assert ran_out(load) > 0


def ran_out(load: Load) -> int:
    """How many messages came again because their lease had run out."""
    events = load.history.events
    asked = {(e.queue, e.offset) for e in events if isinstance(e, Settling) and e.outcome == "retry"}
    came = {(e.queue, e.offset) for e in events if isinstance(e, Delivered) and e.attempts}
    return len(came - asked)
