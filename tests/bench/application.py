"""The two programs that a user of postroom-client would write: one publishes, one works. Each is a process of its own
that uses the public API with its defaults, on asyncio's own loop, and prints when it began and when it was done.

    python -m tests.bench.application soon|many|worker URL QUEUE COUNT

The queue takes what is published to topics below its name.
"""

import asyncio
import json
import os
import sys
import time

from postroom_client import Message, connect

SIZE, CHUNK = 256, 1_000


async def publish_soon(url: str, queue: str, count: int) -> None:
    """One message after the other, pipelined."""
    topic, body = f"{queue}/created", os.urandom(SIZE)
    async with connect(url) as client:
        started = time.perf_counter()
        for _ in range(count):
            await client.publish_soon(topic, body)
        await client.flush()
        tell(started)


async def publish_many(url: str, queue: str, count: int) -> None:
    """A list of a thousand after the other; each is awaited."""
    topic, body = f"{queue}/created", os.urandom(SIZE)
    async with connect(url) as client:
        started = time.perf_counter()
        for first in range(0, count, CHUNK):
            await client.publish_many([(topic, body)] * min(CHUNK, count - first))
        tell(started)


async def work(url: str, queue: str, count: int) -> None:
    """A worker that does nothing but return, until `count` came."""
    left = count
    async with connect(url) as client:

        @client.worker(queue, topics=f"{queue}/#")
        async def handle(message: Message) -> None:
            nonlocal left
            left -= 1
            if not left:
                client.stop()

        started = time.perf_counter()
        await client.run()
        tell(started)


def tell(started: float) -> None:
    """Both by a clock that all processes of this machine share."""
    print(json.dumps({"started": started, "done": time.perf_counter()}), flush=True)


if __name__ == "__main__":
    role = {"soon": publish_soon, "many": publish_many, "worker": work}[sys.argv[1]]
    asyncio.run(role(sys.argv[2], sys.argv[3], int(sys.argv[4])))
