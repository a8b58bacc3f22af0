"""The drop folder on real folders and a real engine; a crash is a cut in the middle and a new start on what is left."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.auth.principal import LOCAL
from broker.connectors.file.drop import DropFolder
from broker.connectors.file.options import DropOptions
from broker.core.errors import BrokerError, Code
from broker.core.message import Message
from broker.core.spec import parse_spec
from broker.engine.base import Unit
from broker.observe.trace import trace_id
from tests.connectors.world import Broker, until


class CrashError(BaseException):
    """The process ends here."""


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


class Drop:
    """A folder, the broker, and drop folders made for them as a daemon would."""

    def __init__(self, broker: Broker, path: Path) -> None:
        self.broker = broker
        self.path = path
        self.made: list[DropFolder] = []
        self.options: dict[str, Any] = {"stable_checks": 1, "stable_for": 0, "batch": 10}

    def folder(
        self, *, sleep: Callable[[float], Awaitable[None]] = no_sleep, path: Path | None = None, **options: Any
    ) -> DropFolder:
        values = {"path": path or self.path, "topic": "rows", **self.options, **options}
        clock = self.broker.clock
        made = DropFolder(self.broker.hub, DropOptions.model_validate(values), clock, clock, sleep)
        self.made.append(made)
        return made

    def put(self, name: str, text: str | bytes) -> None:
        (self.path / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def names(self, folder: str) -> list[str]:
        path = self.path / folder
        return sorted(p.name for p in path.iterdir() if not p.is_dir()) if path.exists() else []

    def note(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.path / name).read_text("utf-8"))
        return loaded

    def in_work(self) -> list[str]:
        return [p.name for p in (self.path / ".work").glob("*/*")]

    async def messages(self) -> list[Message]:
        return await self.broker.messages("rows")

    async def ids(self) -> list[str]:
        return [json.loads(m.body)["id"] for m in await self.messages()]


@pytest.fixture
async def drop(broker: Broker, tmp_path: Path) -> AsyncIterator[Drop]:
    (tmp_path / "in").mkdir()
    drop = Drop(broker, tmp_path / "in")
    yield drop
    for made in drop.made:
        made.close()


def table(count: int, first: int = 1) -> str:
    return "id,name\n" + "".join(f"{i},n{i}\n" for i in range(first, first + count))


def numbers(count: int) -> list[str]:
    return [str(i) for i in range(1, count + 1)]


async def test_rows_become_messages_and_the_file_is_done(drop: Drop) -> None:
    drop.put("a.csv", table(25))
    folder = drop.folder(key="id")
    await folder.poll()
    messages = await drop.messages()
    assert [json.loads(m.body) for m in messages] == [{"id": str(i), "name": f"n{i}"} for i in range(1, 26)]
    last = messages[-1]
    assert (last.key, last.content_type) == ("25", "application/json")
    assert last.headers["file.name"] == "a.csv"
    assert trace_id(last.headers["traceparent"])
    assert (last.headers["file.row"], last.headers["file.rows"], last.headers["file.line"]) == ("25", "25", "26")
    assert len({m.id for m in messages}) == 25
    assert len(last.headers["file.sha256"]) == 64
    assert drop.names("done") == ["a.csv"]
    assert drop.names("") == []
    assert list((drop.path / ".work").iterdir()) == []
    status = folder.status()
    assert (status.state, status.done, status.published, status.file) == ("ok", 1, 25, "")


async def test_nothing_moves_before_the_commit(drop: Drop) -> None:
    drop.put("a.csv", table(3))
    folder = drop.folder()
    places: list[list[str]] = []
    commit = drop.broker.engine.commit

    def watched(unit: Unit) -> None:
        done = unit.done
        assert done is not None

        def answered(receipt: Any) -> None:
            places.append(drop.names("done"))
            done(receipt)

        unit.done = answered
        commit(unit)

    drop.broker.engine.commit = watched  # type: ignore[method-assign]
    await folder.poll()
    assert places == [[]]
    assert drop.names("done") == ["a.csv"]


async def test_the_other_formats(drop: Drop) -> None:
    ndjson, whole = drop.path / "ndjson", drop.path / "whole"
    ndjson.mkdir()
    whole.mkdir()
    (ndjson / "a.jsonl").write_bytes(b'{"id": 1}\n{"id": 2}\n')
    (whole / "b.png").write_bytes(b"\x89PNG")
    (whole / "c.unknownkind").write_bytes(b"")
    await drop.folder(path=ndjson, format="ndjson").poll()
    await drop.folder(path=whole, format="whole").poll()
    found = [(m.body, m.content_type) for m in await drop.messages()]
    assert found == [
        (b'{"id": 1}', "application/json"),
        (b'{"id": 2}', "application/json"),
        (b"\x89PNG", "image/png"),
        (b"", "application/octet-stream"),
    ]


async def test_a_growing_file_waits_until_it_is_whole(drop: Drop) -> None:
    folder = drop.folder(stable_checks=2, stable_for="5s")
    for rows in (1, 2, 3):
        drop.put("a.csv", table(rows))
        await folder.poll()
        drop.broker.clock.advance(4)
    assert await drop.messages() == []
    assert folder.status().watched == 1
    drop.broker.clock.advance(5)
    await folder.poll()
    assert await drop.ids() == numbers(3)


async def test_a_file_without_rows_is_done_too(drop: Drop) -> None:
    drop.put("a.csv", "id,name\n")
    await drop.folder().poll()
    assert await drop.messages() == []
    assert drop.names("done") == ["a.csv"]


async def test_files_are_taken_in_natural_order(drop: Drop) -> None:
    for day in (10, 9, 1):
        drop.put(f"day{day}.csv", table(1, day))
    await drop.folder().poll()
    assert await drop.ids() == ["1", "9", "10"]


# Bad files


async def test_a_bad_row_in_the_middle_publishes_nothing_and_says_where(drop: Drop) -> None:
    drop.put("bad.csv", table(20) + "21\n" + "22,n,x\n" + table(3))
    drop.put("good.csv", table(2))
    folder = drop.folder()
    await folder.poll()
    assert await drop.ids() == ["1", "2"]
    assert drop.names("failed") == ["bad.csv", "bad.csv.err.json"]
    note = drop.note("failed/bad.csv.err.json")
    assert note["errors"] == [
        {"line": 22, "reason": "1 fields, the header has 2"},
        {"line": 23, "reason": "3 fields, the header has 2"},
    ]
    assert note["reason"].startswith("line 22")
    assert note["published_rows"] == 0
    assert "drop the file again" in note["what_to_do"]
    assert (folder.status().done, folder.status().failed) == (1, 1)


async def test_notes_are_bounded(drop: Drop) -> None:
    drop.put("bad.csv", "a,b\n" + "1\n" * 1000)
    await drop.folder().poll()
    assert len(drop.note("failed/bad.csv.err.json")["errors"]) == 20


async def test_the_mended_file_is_taken(drop: Drop) -> None:
    drop.put("a.csv", "id,name\n1\n")
    folder = drop.folder()
    await folder.poll()
    drop.put("a.csv", table(1))
    await folder.poll()
    assert await drop.ids() == ["1"]
    assert drop.names("failed") == ["a.csv", "a.csv.err.json"]


async def test_what_the_engine_refuses_for_good_fails_the_file_and_goes_on_when_dropped_again(drop: Drop) -> None:
    drop.put("a.csv", table(25))
    folder = drop.folder()
    commit, count = drop.broker.engine.commit, 0

    def refusing(unit: Unit) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise BrokerError(Code.CONTRACT_BROKEN, "name is no number")
        commit(unit)

    drop.broker.engine.commit = refusing  # type: ignore[method-assign]
    await folder.poll()
    note = drop.note("failed/a.csv.err.json")
    assert note["published_rows"] == 10
    assert "name is no number" in note["reason"]
    assert "rows 1 to 10 are published" in note["what_to_do"]
    drop.broker.engine.commit = commit  # type: ignore[method-assign]
    (drop.path / "failed" / "a.csv").rename(drop.path / "again.csv")
    await folder.poll()
    assert await drop.ids() == numbers(25)


# Crashes


@pytest.mark.parametrize("where", ["claim", "judge", "begin", "batch", "put_away"])
async def test_a_crash_at_any_step_loses_and_doubles_nothing(
    drop: Drop, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop.put("a.csv", table(35))
    folder = drop.folder()
    crash_after = {"batch": 2}.get(where, 0)
    io, calls = folder._io, 0

    async def crashing(function: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if getattr(function, "__name__", "") == where:
            calls += 1
            if calls > crash_after:
                raise CrashError
        return await io(function, *args, **kwargs)

    monkeypatch.setattr(folder, "_io", crashing)
    with pytest.raises(CrashError):
        await folder.poll()
    published = await drop.ids()
    assert published == numbers({"batch": 20, "put_away": 35}.get(where, 0))
    await drop.broker.restart()
    again = drop.folder()
    await again.poll()
    assert await drop.ids() == numbers(35)
    assert again.status().published == 35 - len(published)
    assert drop.names("done") == ["a.csv"]
    assert drop.in_work() == []


async def test_cancelled_while_a_commit_is_under_way(drop: Drop) -> None:
    drop.put("a.csv", table(35))
    folder = drop.folder()
    commit, units = drop.broker.engine.commit, 0

    def cancelling(unit: Unit) -> None:
        nonlocal units
        units += 1
        commit(unit)
        if units == 2:
            task.cancel()

    drop.broker.engine.commit = cancelling  # type: ignore[method-assign]
    task = asyncio.create_task(folder.run())
    with pytest.raises(asyncio.CancelledError):
        await task
    drop.broker.engine.commit = commit  # type: ignore[method-assign]
    again = drop.folder()
    await again.poll()
    assert await drop.ids() == numbers(35)
    assert drop.names("done") == ["a.csv"]


async def test_cancelled_at_every_point_in_turn(drop: Drop) -> None:
    """Whatever await the cancellation meets, the next folder carries on."""
    drop.put("a.csv", table(95))
    for turns in range(0, 400, 3):
        folder = drop.folder()
        task = asyncio.create_task(folder.poll())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        folder.close()
        await asyncio.to_thread(folder._thread.shutdown, wait=True)
        if drop.names("done"):
            break
    await drop.folder().poll()
    assert await drop.ids() == numbers(95)
    assert drop.names("done") == ["a.csv"]


async def test_a_ledger_that_somebody_else_wrote_stops_the_file(drop: Drop) -> None:
    drop.put("a.csv", table(25))
    folder = drop.folder()
    commit = drop.broker.engine.commit

    def interfering(unit: Unit) -> None:
        other = Unit(sets=[type(unit.sets[0])(unit.sets[0].key, b'{"claim":"x","name":"y","rows":3,"total":9,"at":0}')])
        commit(other)
        drop.broker.engine.commit = commit  # type: ignore[method-assign]
        commit(unit)

    drop.broker.engine.commit = interfering  # type: ignore[method-assign]
    await folder.poll()
    assert await drop.messages() == []
    assert drop.in_work() == ["a.csv"]
    assert folder.status().state == "failing"
    assert "another daemon" in folder.status().reason


# Files that change in hand


async def test_a_file_that_changes_while_it_is_judged_goes_back(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    drop.put("a.csv", table(5))
    folder = drop.folder()
    io = folder._io

    async def growing(function: Any, *args: Any, **kwargs: Any) -> Any:
        result = await io(function, *args, **kwargs)
        if getattr(function, "__name__", "") == "judge":
            with next(drop.path.glob(".work/*/a.csv")).open("a") as file:
                file.write("6,n6\n")
        return result

    monkeypatch.setattr(folder, "_io", growing)
    await folder.poll()
    assert await drop.messages() == []
    assert drop.names("") == ["a.csv"]
    monkeypatch.undo()
    await folder.poll()
    assert await drop.ids() == numbers(6)


async def test_a_file_that_changes_after_rows_were_published_fails(drop: Drop) -> None:
    drop.put("a.csv", table(30))
    folder = drop.folder()
    commit = drop.broker.engine.commit

    def growing(unit: Unit) -> None:
        with next(drop.path.glob(".work/*/a.csv")).open("a") as file:
            file.write("31,n31\n")
        drop.broker.engine.commit = commit  # type: ignore[method-assign]
        commit(unit)

    drop.broker.engine.commit = growing  # type: ignore[method-assign]
    await folder.poll()
    assert await drop.ids() == numbers(10)
    note = drop.note("failed/a.csv.err.json")
    assert note["published_rows"] == 10
    assert "changed" in note["reason"]


# Duplicates


async def test_the_same_content_again_is_skipped_and_told(drop: Drop) -> None:
    folder = drop.folder()
    for name in ("a.csv", "b.csv"):
        drop.put(name, table(3))
        await folder.poll()
    assert await drop.ids() == numbers(3)
    assert drop.names("done") == ["a.csv", "b.csv", "b.csv.skipped.json"]
    assert "published as a.csv" in drop.note("done/b.csv.skipped.json")["reason"]
    assert folder.status().skipped == 1


async def test_the_same_name_with_new_content_is_a_new_file(drop: Drop) -> None:
    folder = drop.folder()
    for first in (1, 4):
        drop.put("a.csv", table(3, first))
        await folder.poll()
    assert await drop.ids() == numbers(6)


async def test_duplicates_can_be_published_or_refused(drop: Drop) -> None:
    await _drop_twice(drop, drop.folder(on_duplicate="process"))
    assert await drop.ids() == numbers(3) * 2
    assert len({m.id for m in await drop.messages()}) == 6
    await _drop_twice(drop, drop.folder(on_duplicate="error"))
    assert "same content" in drop.note("failed/a.csv.err.json")["reason"]
    assert len(await drop.ids()) == 6


async def _drop_twice(drop: Drop, folder: DropFolder) -> None:
    for _ in range(2):
        drop.put("a.csv", table(3))
        await folder.poll()
        drop.broker.clock.advance(1)


async def test_folders_do_not_mix_their_ledgers(drop: Drop) -> None:
    (drop.path / "other").mkdir()
    drop.put("a.csv", table(3))
    drop.put("other/a.csv", table(3))
    await drop.folder().poll()
    await drop.folder(path=drop.path / "other").poll()
    assert await drop.ids() == numbers(3) * 2


async def test_the_ledger_is_trimmed(drop: Drop) -> None:
    drop.put("a.csv", table(1))
    folder = drop.folder(remember="10d")
    await folder.poll()
    assert len(await drop.broker.engine.keys("drop/")) == 1
    drop.broker.clock.advance(9 * 86_400)
    await folder.poll()
    assert len(await drop.broker.engine.keys("drop/")) == 1
    drop.broker.clock.advance(2 * 86_400)
    await folder.poll()
    assert await drop.broker.engine.keys("drop/") == []


# A broker that takes nothing now


async def test_a_full_queue_is_waited_for_and_nothing_is_lost(drop: Drop) -> None:
    await drop.broker.hub.put_subscription(
        LOCAL, parse_spec("q", {"topics": ["rows"], "max_messages": 7, "overflow": "refuse"})
    )
    drop.put("a.csv", table(25))
    states: list[str] = []

    async def make_room(seconds: float) -> None:
        states.append(folder.status().state)
        assert drop.in_work() == ["a.csv"]
        assert await drop.broker.engine.purge("q") > 0

    folder = drop.folder(sleep=make_room)
    await folder.poll()
    assert await drop.ids() == numbers(25)
    assert states
    assert set(states) == {"waiting"}
    assert folder.status().state == "ok"


@pytest.mark.parametrize("code", [Code.DISK_LOW, Code.STORAGE_FAILED, Code.RATE_LIMITED, Code.SHUTTING_DOWN])
async def test_other_refusals_are_waited_for_too(drop: Drop, code: Code, caplog: pytest.LogCaptureFixture) -> None:
    drop.put("a.csv", table(25))
    commit, waits = drop.broker.engine.commit, 0

    def refusing(unit: Unit) -> None:
        raise BrokerError(code, "for a while")

    async def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 5:
            drop.broker.engine.commit = commit  # type: ignore[method-assign]

    drop.broker.engine.commit = refusing  # type: ignore[method-assign]
    folder = drop.folder(sleep=sleep)
    await folder.poll()
    assert waits == 5
    assert await drop.ids() == numbers(25)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


async def test_a_commit_whose_outcome_is_unknown_is_looked_up(drop: Drop) -> None:
    drop.put("a.csv", table(25))
    commit, lost = drop.broker.engine.commit, False

    def losing(unit: Unit) -> None:
        nonlocal lost
        if not lost:
            lost = True
            done = unit.done
            assert done is not None

            def answer(receipt: Any) -> None:
                receipt.error = BrokerError(Code.TIMEOUT)
                done(receipt)

            unit.done = answer
        commit(unit)

    drop.broker.engine.commit = losing  # type: ignore[method-assign]
    await drop.folder().poll()
    assert lost
    assert await drop.ids() == numbers(25)


# Folders that are not there


async def test_a_missing_folder_is_told_once_and_taken_up_when_it_comes(
    drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    late = drop.path / "late"
    folder = drop.folder(path=late)
    for _ in range(3):
        await folder.poll()
    assert folder.status().state == "failing"
    assert "create it" in folder.status().reason
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    late.mkdir()
    (late / "a.csv").write_text(table(1))
    await folder.poll()
    assert folder.status().state == "ok"
    assert await drop.ids() == ["1"]


async def test_a_file_in_the_way_of_done_is_told(drop: Drop) -> None:
    drop.put("done", "not a folder")
    drop.put("a.csv", table(1))
    folder = drop.folder()
    await folder.poll()
    assert folder.status().state == "failing"
    assert "done" in folder.status().reason
    assert drop.names("") == ["a.csv", "done"]


async def test_one_folder_that_fails_does_not_stop_another(drop: Drop) -> None:
    bad = drop.folder(path=drop.path / "a.csv", poll="50ms", sleep=asyncio.sleep)
    good = drop.folder(poll="50ms", sleep=asyncio.sleep)
    drop.put("a.csv", table(2))
    tasks = [asyncio.create_task(folder.run()) for folder in (bad, good)]
    try:
        await until(lambda: drop.names("done") == ["a.csv"])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert bad.status().state == "failing"


async def test_a_fault_of_our_own_is_logged_and_the_folder_goes_on(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = drop.folder()
    poll, polls = folder.poll, 0

    async def failing() -> None:
        nonlocal polls
        polls += 1
        if polls == 1:
            raise ZeroDivisionError
        await poll()

    monkeypatch.setattr(folder, "poll", failing)
    drop.put("a.csv", table(1))
    task = asyncio.create_task(folder.run())
    await until(lambda: drop.names("done") == ["a.csv"])
    await until(lambda: folder.status().state == "ok")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "ZeroDivisionError" in caplog.text


async def test_logs_hold_no_rows(drop: Drop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "broker.connectors")
    drop.put("a.csv", "id,name\n1,PAYLOAD\n")
    drop.put("b.csv", "id,name\nPAYLOAD\n")
    await drop.folder().poll()
    told = [str(record.__dict__) for record in caplog.records if record.name.startswith("broker.connectors")]
    assert len(told) == 2
    assert not any("PAYLOAD" in text for text in told)
