"""`http`: publishing by HTTP, one message a request and many, beside a bare aiohttp handler under the same load."""

import asyncio
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.child import child, free_port, listening, python
from tests.bench.figures import Bound, Goal, Results, Values
from tests.bench.plan import Plan, Scenario, Step, Table
from tests.bench.postroom import served

CONNECTIONS, BATCH_CONNECTIONS = 64, 8
SECONDS, QUICK_SECONDS = 6, 1
SIZE, BATCH = 256, 500
TOPIC = "orders/created"
BARE, SINGLE, MANY = "bare aiohttp", "one message a request", f"{BATCH} messages a request"
AT_LEAST, AIM, BATCH_AT_LEAST = 0.5, 0.6, 100_000


def scenario(plan: Plan) -> Scenario:
    seconds = QUICK_SECONDS if plan.quick else SECONDS
    steps = [
        Step(BARE, partial(_bare, seconds), ("rate", "requests/s")),
        Step(SINGLE, partial(_single, seconds)),
        Step(MANY, partial(_batches, seconds)),
    ]
    return Scenario("http", steps, lambda results: _table(plan, seconds, results))


async def _bare(seconds: int, folder: Path) -> Values:
    port = free_port()
    with child(python("tests.bench.bare_http", str(port)), folder) as process:
        await listening(process, port, folder)
        address = f"127.0.0.1:{port}"
        return {"rate": await _load(folder, f"http://{address}/v1/topics/{TOPIC}/messages", "x" * SIZE, seconds)}


async def _single(seconds: int, folder: Path) -> Values:
    with served(folder) as daemon:
        url = f"http://{daemon.address('http')}/v1/topics/{TOPIC}/messages"
        return {"rate": await _load(folder, url, "x" * SIZE, seconds)}


async def _batches(seconds: int, folder: Path) -> Values:
    item = {"topic": TOPIC, "body": "x" * SIZE, "content_type": "text/plain"}
    with served(folder) as daemon:
        url = f"http://{daemon.address('http')}/v1/messages"
        rate = await _load(folder, url, json.dumps([item] * BATCH), seconds, BATCH_CONNECTIONS)
        return {"rate": rate * BATCH}


async def _load(folder: Path, url: str, body: str, seconds: int, connections: int = CONNECTIONS) -> float:
    """Requests answered with 2xx in a second. Raises RuntimeError when any was answered otherwise."""
    script = folder / "post.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = [==[{body}]==]\n')
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    told = out.decode()
    found = re.search(r"^Requests/sec:\s+([\d.]+)$", told, re.MULTILINE)
    if found is None or "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    return float(found[1])


def _table(plan: Plan, seconds: int, results: Results) -> Table:
    single, many = results.ratio(SINGLE, BARE, "rate"), results.median(MANY, "rate")
    rows: list[Sequence[str | float | None]] = [
        [BARE, results.median(BARE, "rate"), None],
        [SINGLE, results.median(SINGLE, "rate"), single],
        [MANY, many, results.ratio(MANY, BARE, "rate")],
    ]
    goals = [
        Goal(f"{SINGLE}, × {BARE}", Bound.AT_LEAST, AT_LEAST, single),
        Goal(f"{SINGLE}, × {BARE}", Bound.AT_LEAST, AIM, single, aim=True),
        Goal(MANY, Bound.AT_LEAST, BATCH_AT_LEAST, many, "messages/s"),
    ]
    how = (
        f"Messages/s published by HTTP and confirmed after the fsync, by wrk with one thread on the same machine for"
        f" {seconds} s: {CONNECTIONS} connections and a message of {SIZE} bytes a request; {BATCH_CONNECTIONS}"
        f" connections and a JSON array of {BATCH} such messages to `/v1/messages`. {BARE}: a process of its own whose"
        f" handler reads the body and answers 201 with a small JSON, by aiohttp's low-level server on uvloop."
        f" {plan.medians} Ratios are medians of the ratios within a run."
    )
    return Table(how, ["by HTTP", "messages/s", f"/ {BARE}"], rows, goals)
