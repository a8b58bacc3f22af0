"""Passwords, for people and MQTT clients: hashed with argon2id, verified off the loop, remembered when right.

argon2 is slow on purpose. So it runs in few threads with a bounded line before them, a password found right is known by
a hash keyed for this process alone, and attempts that fail are limited per address and, more gently, per name: nobody
can lock somebody else out from one place. Floor 2.
"""

import asyncio
import hashlib
import math
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from broker.auth.attempts import Attempts, source_of
from broker.auth.token import PREFIX
from broker.core.errors import BrokerError, Code

THREADS = 2
MAX_WAITING = 200
"""Attempts that may wait for a thread."""
MAX_KNOWN = 10_000
"""Passwords that are remembered to be right."""
BY_NAME = 10
"""So many times as often as an address, a name may fail: it takes as many addresses to lock it."""
MAX_PLACES = 10_000
"""Pairs of name and address that are remembered for a password that was right."""
MIN_LENGTH, MAX_LENGTH = 8, 1024


class Passwords:
    """See the module. `clock`: monotonic seconds. `allowed`: how many attempts of an address may fail per minute."""

    def __init__(self, allowed: int, clock: Callable[[], float]) -> None:
        # OWASP's second choice of 2023: 19 MiB and 2 passes, about 30 ms; memory is bounded by the threads.
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 << 10, parallelism=1)
        self._threads = ThreadPoolExecutor(THREADS, "password")
        self._by_address = Attempts(allowed, clock)
        self._by_name = Attempts(allowed * BY_NAME, clock)
        self._places: dict[tuple[str, str], None] = {}  # name and address of passwords that were right
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, str] = {}  # keyed hash of name and password -> the stored hash that it is right for
        self._running: dict[tuple[bytes, str | None], asyncio.Future[bool]] = {}  # by keyed hash and stored one
        self._nobodys = ""  # what the password of an unknown name is compared with, so that it takes as long

    def allow(self, failures: int) -> None:
        """From now on so many attempts of an address may fail per minute."""
        self._by_address.allowed, self._by_name.allowed = failures, failures * BY_NAME

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """What is kept of a password. Raises BAD_OPTION for one that is too short or too long."""
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise BrokerError(Code.BAD_OPTION, f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")
        if password.startswith(f"{PREFIX}_"):
            raise BrokerError(Code.BAD_OPTION, f"a password does not begin with {PREFIX}_: tokens do")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, password)

    async def right(self, name: str, password: str, stored: str | None, address: str) -> bool:
        """Is this the password of `name`, whose stored hash is given (None: there is none)? Raises RATE_LIMITED."""
        mark = hashlib.blake2b(f"{name}\0{password}".encode(errors="replace"), key=self._key, digest_size=32).digest()
        if stored is not None and self._known.get(mark) == stored:
            return True
        question = (mark, stored)
        running = self._running.get(question)
        if running is None:
            self._check(name, address)
            running = asyncio.ensure_future(self._verify(mark, name, password, stored, address))
            self._running[question] = running
            running.add_done_callback(lambda _: self._running.pop(question, None))
        return await asyncio.shield(running)

    def _check(self, name: str, address: str) -> None:
        if len(self._running) >= MAX_WAITING:
            raise BrokerError(Code.RATE_LIMITED, "too many passwords are being checked; try again in a moment")
        source = source_of(address)
        wait, who = self._by_address.wait(source), "your address"
        if wait <= 0 and (name, source) not in self._places:
            wait, who = self._by_name.wait(name), f"the user {name!r}"
        if wait > 0:
            text = f"too many failed passwords for {who}; try again in {math.ceil(wait)} s"
            raise BrokerError(Code.RATE_LIMITED, text, retry_after=wait)
        self._by_address.begin(source)
        self._by_name.begin(name)

    async def _verify(self, mark: bytes, name: str, password: str, stored: str | None, address: str) -> bool:
        loop = asyncio.get_running_loop()
        if len(password) > MAX_LENGTH:
            return False
        if stored is None and not self._nobodys:
            self._nobodys = await loop.run_in_executor(self._threads, self._hasher.hash, secrets.token_hex())
        fits = await loop.run_in_executor(self._threads, self._fits, stored or self._nobodys, password)
        if not fits or stored is None:
            return False
        source = source_of(address)
        self._by_address.succeeded(source)
        self._by_name.succeeded(name)
        self._known[mark] = stored
        self._places[name, source] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        if len(self._places) > MAX_PLACES:
            del self._places[next(iter(self._places))]
        return True

    def _fits(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
