"""Tasks that are kept alive, and their ends."""

import asyncio

import pytest

from broker import tasks
from broker.tasks import Tasks


async def test_a_task_that_fails_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "FIRST_REST", 0.0)
    calls: list[int] = []

    async def run() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise RuntimeError("not yet")

    kept = Tasks()
    kept.keep("connector", run)
    await kept.running["connector"]
    assert calls == [0, 1, 2]
    assert caplog.messages == ["a task failed; it is started again"] * 2


async def test_those_that_are_named_end_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    kept = Tasks()

    async def fails_at_its_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("too late")

    async def goes_on() -> None:
        await asyncio.sleep(60)

    kept.keep("bad", fails_at_its_end)
    kept.keep("good", goes_on)
    await asyncio.sleep(0)
    bad = kept.running["bad"]
    await kept.end("bad", "nobody")
    assert bad.done()
    assert caplog.messages == ["a task failed at its end"]
    assert list(kept.running) == ["good"]
    await kept.end()
    assert kept.running == {}
