"""`client`: postroom-client to postroom-client, as a user would write both ends."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import drive
from tests.bench.child import ROOT, python
from tests.bench.figures import Bound, Goal, Results, Values
from tests.bench.load import TIME_LIMIT
from tests.bench.plan import Plan, Scenario, Step, Table
from tests.bench.postroom import native_port, served

MESSAGES = 300_000
QUEUE = "bench"
AT_LEAST = 60_000
WAYS = {"soon": "publish_soon and flush", "many": "publish_many by 1,000"}


def scenario(plan: Plan) -> Scenario:
    steps = [Step(name, partial(_measure, plan.count(MESSAGES), way)) for way, name in WAYS.items()]
    return Scenario("client", steps, lambda results: _table(plan, results))


async def _measure(count: int, way: str, folder: Path) -> Values:
    with served(folder) as daemon:
        port = native_port(daemon)
        watcher = await drive.connect(port, drive.Wire)
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(_program("worker", port, count))
            await _attached(watcher, worker)
            publisher = await stack.enter_async_context(_program(way, port, count))
            async with asyncio.timeout(TIME_LIMIT):
                published = await _told(publisher)
                worked = await _told(worker)
        await _check(watcher, count)
        watcher.close()
    confirmed = count / (published["done"] - published["started"])
    acked = count / (worked["done"] - published["started"])
    return {"confirmed": confirmed, "acked": acked, "rate": min(confirmed, acked)}


@asynccontextmanager
async def _program(role: str, port: int, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """One of the two, ended with the block if it has not ended by itself."""
    path = os.pathsep.join(filter(None, [str(ROOT / "clients" / "python"), os.environ.get("PYTHONPATH")]))
    process = await asyncio.create_subprocess_exec(
        *python("tests.bench.application", role, f"postroom://127.0.0.1:{port}", QUEUE, str(count)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _attached(watcher: drive.Wire, worker: asyncio.subprocess.Process) -> None:
    """Until the worker has created its queue and takes from it. Raises RuntimeError when it ended instead."""
    async with asyncio.timeout(TIME_LIMIT):
        while not any(info["consumers"] for info in await watcher.request("subscription.list")):
            if worker.returncode is not None:
                raise RuntimeError("the worker ended before it began; it says why above")
            await asyncio.sleep(0.05)


async def _told(process: asyncio.subprocess.Process) -> dict[str, float]:
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("a program on postroom-client failed; it says why above")
    told: dict[str, float] = json.loads(out)
    return told


async def _check(watcher: drive.Wire, count: int) -> None:
    info: dict[str, Any] = await watcher.request("subscription.get", {"name": QUEUE})
    if info["acked"] != count or info["ready"] or info["leased"]:
        raise RuntimeError(f"{count} were published, but the queue says {info}")


def _table(plan: Plan, results: Results) -> Table:
    rows: list[Sequence[str | float | None]] = []
    goals = []
    for name in WAYS.values():
        rows.append([name, *(results.median(name, value) for value in ("confirmed", "acked", "rate"))])
        goals.append(Goal(name, Bound.AT_LEAST, AT_LEAST, results.median(name, "rate"), "messages/s"))
    how = (
        f"postroom-client to postroom-client by its public API with default settings on asyncio's own loop: one process"
        f" publishes {plan.count(MESSAGES):,} messages of 256 bytes, one runs an async @worker that returns at once."
        " From the first publish until the last confirm, and until the worker has acked all and stopped; publisher,"
        f" worker and daemon share the machine. {plan.medians}"
    )
    return Table(how, ["publisher", "confirmed/s", "delivered and acked/s", "both"], rows, goals)
