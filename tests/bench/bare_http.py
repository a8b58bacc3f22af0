"""The yardstick of `http`: aiohttp's low-level server with a handler that reads the body and answers 201 with a small
JSON. `python -m tests.bench.bare_http PORT`."""

import asyncio
import sys

import uvloop
from aiohttp import web

ANSWER = b'{"id":"019ac0de-0000-7000-8000-000000000000","offset":1,"position":"00000000.1","duplicate":false}'


async def handle(request: web.BaseRequest) -> web.StreamResponse:
    await request.read()
    return web.Response(body=ANSWER, status=201, content_type="application/json")


async def serve(port: int) -> None:
    listener = await asyncio.get_running_loop().create_server(web.Server(handle), "127.0.0.1", port)
    await listener.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
