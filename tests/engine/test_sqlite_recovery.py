"""What a start makes of what it finds in the file."""

import sqlite3
from contextlib import closing

from pyroaring import BitMap

from tests.engine.conformance import world
from tests.engine.test_sqlite_conformance import engine_factory
from tests.engine.world import World

__all__ = ["engine_factory", "world"]


async def test_progress_of_a_queue_that_was_never_made_is_not_the_next_ones(world: World) -> None:
    """A queue with a cap that is being made from the beginning of the log may settle before it is on disk; killed then,
    its number is given to another."""
    first = (await world.publish("jobs", "1", "2", "3")).offset
    await world.engine.stop()
    with closing(sqlite3.connect(world.folder / "postroom.db")) as db, db:
        db.execute("INSERT INTO progress VALUES (1, 0)")
        db.execute("INSERT INTO settled VALUES (1, 0, ?)", (BitMap([first, first + 1]).serialize(),))
        db.execute("INSERT INTO redelivery VALUES (1, ?, x'9401000090')", (first,))
    await world.start()
    await world.subscribe("q", "jobs", **{"from": "earliest"})
    assert world.info().ready == 3
    await world.crash()
    assert world.info().ready == 3
