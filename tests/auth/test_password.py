"""Passwords: verified off the loop, remembered when right, and not to be tried out. The clock is injected."""

import asyncio
from collections.abc import Iterator
from typing import Literal

import pytest
from argon2 import PasswordHasher

from broker.auth.attempts import MAX_KEYS, PERIOD, Attempts, source_of
from broker.auth.password import BY_NAME, MAX_LENGTH, Passwords
from broker.core.errors import BrokerError, Code

RIGHT = "correct horse"
HERE, THERE = "10.0.0.1", "10.0.0.2"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Counting(PasswordHasher):
    """argon2, made fast, that counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.asked = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        self.asked += 1
        return super().verify(hash, password)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hasher() -> Counting:
    return Counting()


@pytest.fixture
def passwords(clock: Clock, hasher: Counting) -> Iterator[Passwords]:
    found = Passwords(3, clock)
    found._hasher = hasher
    yield found
    found.close()


async def limited(passwords: Passwords, name: str, address: str, password: str = "wrong") -> bool:
    try:
        await passwords.right(name, password, None, address)
    except BrokerError as error:
        return error.code is Code.RATE_LIMITED and bool(error.retry_after)
    return False


async def test_a_right_password_is_verified_once(passwords: Passwords, hasher: Counting) -> None:
    stored = await passwords.hash(RIGHT)
    for _ in range(5):
        assert await passwords.right("ann", RIGHT, stored, HERE)
    assert hasher.asked == 1
    assert not await passwords.right("ann", RIGHT + "x", stored, HERE)
    assert not await passwords.right("bob", RIGHT, None, HERE)
    assert RIGHT not in repr(vars(passwords))


async def test_another_password_makes_the_first_one_wrong(passwords: Passwords) -> None:
    first, second = await passwords.hash(RIGHT), await passwords.hash("battery staple")
    assert await passwords.right("ann", RIGHT, first, HERE)
    assert not await passwords.right("ann", RIGHT, second, HERE)
    assert not await passwords.right("ann", RIGHT, None, HERE)


async def test_many_who_come_at_once_with_one_password_share_a_verification(
    passwords: Passwords, hasher: Counting
) -> None:
    stored = await passwords.hash(RIGHT)
    found = await asyncio.gather(*(passwords.right("ann", RIGHT, stored, HERE) for _ in range(50)))
    assert all(found)
    assert hasher.asked == 1


async def test_who_comes_while_the_old_password_is_being_verified_is_held_to_the_new_one(passwords: Passwords) -> None:
    old, new = await passwords.hash(RIGHT), await passwords.hash("battery staple")
    before = asyncio.create_task(passwords.right("ann", RIGHT, old, HERE))
    await asyncio.sleep(0)
    assert not await passwords.right("ann", RIGHT, new, HERE)
    assert await before


async def test_a_hash_that_is_none_fits_nothing(passwords: Passwords) -> None:
    assert not await passwords.right("ann", RIGHT, "no hash", HERE)


async def test_one_who_stops_waiting_does_not_stop_the_others(passwords: Passwords) -> None:
    stored = await passwords.hash(RIGHT)
    first = asyncio.create_task(passwords.right("ann", RIGHT, stored, HERE))
    second = asyncio.create_task(passwords.right("ann", RIGHT, stored, HERE))
    await asyncio.sleep(0)
    first.cancel()
    assert await second


async def test_an_unknown_name_costs_as_much_as_a_wrong_password(passwords: Passwords, hasher: Counting) -> None:
    stored = await passwords.hash(RIGHT)
    assert not await passwords.right("ann", "wrong", stored, HERE)
    assert not await passwords.right("nobody", "wrong", None, THERE)
    assert hasher.asked == 2


async def test_failures_are_limited_by_address_and_come_back_with_time(passwords: Passwords, clock: Clock) -> None:
    assert [await limited(passwords, f"name{i}", HERE) for i in range(4)] == [False] * 3 + [True]
    assert not await limited(passwords, "name9", THERE)
    clock.now += PERIOD / 3
    assert [await limited(passwords, f"name{i}", HERE) for i in range(10, 12)] == [False, True]


async def test_failures_are_limited_by_name_more_gently(passwords: Passwords) -> None:
    most = 3 * BY_NAME
    assert [await limited(passwords, "ann", f"10.0.0.{i}") for i in range(most + 1)] == [False] * most + [True]
    assert not await limited(passwords, "bob", "10.0.1.1")


async def test_who_guesses_from_one_place_locks_nobody_else_out(passwords: Passwords) -> None:
    stored = await passwords.hash(RIGHT)
    while not await limited(passwords, "ann", THERE):
        pass
    assert await passwords.right("ann", RIGHT, stored, HERE)


async def test_who_guesses_from_many_places_locks_nobody_out_where_the_password_was_right(passwords: Passwords) -> None:
    first, second = await passwords.hash(RIGHT), await passwords.hash("battery staple")
    assert await passwords.right("ann", RIGHT, first, HERE)
    for i in range(3 * BY_NAME):
        await limited(passwords, "ann", f"10.0.1.{i}")
    assert await limited(passwords, "ann", THERE)
    assert await passwords.right("ann", "battery staple", second, HERE)
    assert [await limited(passwords, "ann", HERE) for _ in range(4)] == [False] * 3 + [True]


async def test_places_are_bounded_in_number(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.auth.password.MAX_PLACES", 5)
    stored = await passwords.hash(RIGHT)
    for i in range(10):
        assert await passwords.right(f"ann{i}", RIGHT, stored, HERE)
    assert len(passwords._places) == 5


async def test_attempts_at_once_are_no_way_around(passwords: Passwords) -> None:
    found = await asyncio.gather(*(limited(passwords, f"n{i}", HERE, f"wrong{i}") for i in range(20)))
    assert found.count(False) == 3


async def test_right_passwords_use_up_nothing_and_known_ones_always_pass(passwords: Passwords) -> None:
    stored = await passwords.hash(RIGHT)
    for i in range(10):
        assert await passwords.right(f"ann{i}", RIGHT, stored, HERE)
    while not await limited(passwords, "ann0", HERE):
        pass
    assert await passwords.right("ann0", RIGHT, stored, HERE)


@pytest.mark.parametrize("password", ["", "short", "x" * (MAX_LENGTH + 1), "pr_looks_like_a_token"])
async def test_what_is_no_password_is_refused(passwords: Passwords, password: str) -> None:
    with pytest.raises(BrokerError) as refusal:
        await passwords.hash(password)
    assert refusal.value.code is Code.BAD_OPTION


async def test_one_that_is_too_long_is_not_hashed(passwords: Passwords, hasher: Counting) -> None:
    assert not await passwords.right("ann", "x" * 100_000, await passwords.hash(RIGHT), HERE)
    assert hasher.asked == 0


def test_sources_are_bounded_in_number(clock: Clock) -> None:
    attempts = Attempts(3, clock)
    for i in range(MAX_KEYS + 10):
        attempts.begin(str(i))
    assert len(attempts._debts) == MAX_KEYS
    attempts.succeeded(str(MAX_KEYS))
    assert len(attempts._debts) == MAX_KEYS - 1


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::"),
        ("2001:db8:0:0:1:2:3:4", "2001:db8::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("unix", "unix"),
    ],
)
def test_who_an_address_is(address: str, source: str) -> None:
    assert source_of(address) == source
