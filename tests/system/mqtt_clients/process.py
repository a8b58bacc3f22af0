"""A client that is a program: its lines are read as they come."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence


class Process:
    """`said` is called with every line of its standard output and error."""

    def __init__(self, said: Callable[[str], None]) -> None:
        self._said = said

    async def start(self, command: Sequence[str]) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self._said(line.decode().rstrip("\n"))

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def end(self) -> int:
        """Its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        code = await self.process.wait()
        await self._reader
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code
