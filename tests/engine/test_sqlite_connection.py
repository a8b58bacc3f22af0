"""The crossing to the thread of a connection: every commit takes it."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.engine.sqlite.connection import Connection, open_writer

PATIENCE = 5.0


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    opened = await open_writer(tmp_path / "postroom.db", 1 << 20)
    yield opened
    await opened.close()


async def test_work_is_done_to_its_end_when_its_caller_is_cancelled(connection: Connection) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(db: sqlite3.Connection) -> None:
        begun.set()
        go_on.wait(PATIENCE)
        db.execute("INSERT INTO kv VALUES ('k', x'01', 1)")

    caller = asyncio.create_task(connection.run(work))
    await asyncio.to_thread(begun.wait, PATIENCE)
    waiting = asyncio.create_task(connection.run(lambda db: db.execute("INSERT INTO kv VALUES ('l', x'02', 2)")))
    await asyncio.sleep(0)
    caller.cancel()
    waiting.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await connection.run(lambda db: db.execute("SELECT key FROM kv ORDER BY key").fetchall()) == [("k",), ("l",)]


async def test_what_fails_there_is_raised_here(connection: Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await connection.run(lambda db: db.execute("SELECT * FROM absent"))


async def test_it_makes_no_task(connection: Connection) -> None:
    """A task, and a shield around it, are turns of the loop that each commit would wait for."""
    tasks: list[int] = []
    asyncio.get_running_loop().call_soon(lambda: tasks.append(len(asyncio.all_tasks())))
    await connection.run(lambda db: db.execute("SELECT 1").fetchone())
    assert tasks == [1]


async def test_the_file_is_for_its_user_alone_unless_somebody_said_otherwise(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        opened = await open_writer(tmp_path / "postroom.db", 1 << 20)
        await opened.run(lambda db: db.execute("INSERT INTO kv VALUES ('k', x'01', 1)"))
        rights = _rights(tmp_path)
        await opened.close()
        (tmp_path / "postroom.db").chmod(0o640)
        opened = await open_writer(tmp_path / "postroom.db", 1 << 20)
        await opened.close()
    finally:
        os.umask(before)
    assert rights == dict.fromkeys(["postroom.db", "postroom.db-wal", "postroom.db-shm"], 0o600)
    assert _rights(tmp_path)["postroom.db"] == 0o640


def _rights(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
