"""Principals with their tokens, grants and passwords, on a real engine: kept, changed, ended, expired."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.auth.directory import Directory
from broker.auth.first import make_admin
from broker.auth.grant import EVERYTHING, parse_grant
from broker.auth.identity import Identity
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.engine.base import Set, Unit
from broker.engine.keyspace import Keyspace
from broker.hub import AUTH_KEYS
from tests.engine.world import World, open_world
from tests.protocols.native.client import make

READ = parse_grant("consume orders/#")


class Told:
    """What a directory told its watchers."""

    def __init__(self, directory: Directory) -> None:
        self.regranted: list[str] = []
        self.ended: list[str] = []
        directory.regranted.append(lambda principal: self.regranted.append(principal.name))
        directory.ended.append(lambda identity: self.ended.append(f"{identity.how}: {identity.ended}"))


async def directory_of(world: World) -> Directory:
    directory = Directory(Keyspace(world.engine, AUTH_KEYS), world.clock.wall)
    await directory.load()
    return directory


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[World, Directory, Told]]:
    async with open_world(folder / "data", make) as world:
        directory = await directory_of(world)
        yield world, directory, Told(directory)


def refused(directory: Directory, text: str) -> str:
    with pytest.raises(BrokerError) as refusal:
        directory.identify(text)
    assert refusal.value.code is Code.UNAUTHENTICATED
    return refusal.value.detail


async def test_a_token_speaks_for_its_principal(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, _told):
        text, token = await directory.create_token("ann")
        prefix, token_id, secret = text.split("_")
        assert (prefix, token_id, len(bytes.fromhex(secret))) == ("pr", token.id, 32)
        identity = directory.identify(text)
        assert (identity.principal.name, identity.how) == ("ann", f"token {token.id}")
        assert identity.principal is directory.principal("ann")
        assert directory.identify(text) is identity


async def test_who_is_cancelled_while_a_change_is_committed_leaves_memory_as_the_disk_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, directory, told):
        text, token = await directory.create_token("ann")
        change = asyncio.create_task(directory.revoke(token.id))
        for _ in range(3):  # again and again, while it is on its way
            await asyncio.sleep(0)
            change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        assert "was revoked" in refused(directory, text)
        assert told.ended
        assert refused(await directory_of(world), text)
        assert await directory.create_token("ann")


async def test_a_wrong_token_is_refused_alike_whether_its_id_is_known_or_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, _told):
        text, _token = await directory.create_token("ann")
        wrong = [text[:-1] + ("0" if text[-1] != "0" else "1"), "pr_000000000000_" + text.split("_")[2], f"{text}0"]
        assert len({refused(directory, sent) for sent in wrong}) == 1
        for sent in ("", "pr", "pr__", "xx_a_b", text[3:], "pr_\udcff_x"):
            assert refused(directory, sent)


async def test_no_secret_is_on_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, directory, _told):
        text, _token = await directory.create_token("ann")
        kept = [(await world.engine.get(key) or (b"", 0))[0] for key in await world.engine.keys("")]
        assert len(kept) == 1
        assert text.split("_")[2].encode() not in kept[0]


async def test_everything_is_there_after_a_crash(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, directory, _told):
        text, token = await directory.create_token("ann", 60_000)
        await directory.add_grants("ann", (READ, EVERYTHING))
        await directory.set_password("bob", "hash")
        gone, gone_token = await directory.create_token("ann")
        await directory.revoke(gone_token.id)
        await world.crash()
        again = await directory_of(world)
        assert again.identify(text).principal.grants == (READ, EVERYTHING)
        assert again.account("bob").record.password == "hash"
        assert refused(again, gone)
        assert list(again.account("ann").record.tokens) == [token.id]
        assert again.account("ann").record == directory.account("ann").record


async def test_a_record_that_cannot_be_read_is_told_by_name(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, _directory, _told):
        for data in (b"{", b"[]", b'{"grants": ["fly"], "tokens": {}, "password": null}', b"{}"):
            await world.commit(Unit(sets=[Set("auth/ann", data)]))
            with pytest.raises(BrokerError, match="'ann'"):
                await directory_of(world)


async def test_revoking_ends_one_token_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, told):
        text, token = await directory.create_token("ann")
        other, _other = await directory.create_token("ann")
        identity = directory.identify(text)
        await directory.revoke(token.id)
        assert told.ended == [f"token {token.id}: the token was revoked"]
        assert refused(directory, text)
        with pytest.raises(BrokerError, match="revoked"):
            identity.valid()
        assert directory.identify(other).ended is None
        with pytest.raises(BrokerError) as refusal:
            await directory.revoke(token.id)
        assert refusal.value.code is Code.NOT_FOUND


async def test_a_token_expires_for_those_who_come_and_those_who_are_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, directory, told):
        text, token = await directory.create_token("ann", 10_000)
        identity = directory.identify(text)
        world.clock.move(9.9)
        directory.expire()
        assert directory.identify(text) is identity
        world.clock.move(0.1)
        assert refused(directory, text) == "the token has expired"
        assert not told.ended
        directory.expire()
        directory.expire()
        assert told.ended == [f"token {token.id}: the token has expired"]


async def test_a_token_ends_again_when_the_clock_was_set_back_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, directory, told):
        text, token = await directory.create_token("ann", 60_000)
        world.clock.wall_seconds += 61
        directory.expire()
        world.clock.wall_seconds -= 30
        identity = directory.identify(text)
        assert identity.ended is None
        directory.expire()
        assert directory.identify(text) is identity
        world.clock.wall_seconds += 30
        directory.expire()
        assert told.ended == [f"token {token.id}: the token has expired"] * 2
        assert identity.ended


async def test_grants_change_in_the_one_object_of_the_principal(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, told):
        text, _token = await directory.create_token("ann")
        principal = directory.identify(text).principal
        assert await directory.add_grants("ann", (READ,))
        assert principal.grants == (READ,)
        principal.topics.add("orders/a")
        assert not await directory.add_grants("ann", (READ,))
        assert principal.topics
        await directory.remove_grant("ann", READ)
        assert not principal.grants
        assert not principal.topics
        assert told.regranted == ["ann", "ann"]
        with pytest.raises(BrokerError) as refusal:
            await directory.remove_grant("ann", READ)
        assert refusal.value.code is Code.NOT_FOUND


async def test_removing_a_principal_ends_all_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, directory, told):
        text, _token = await directory.create_token("ann")
        await directory.add_grants("ann", (READ,))
        await directory.set_password("ann", "hash")
        principal = directory.principal("ann")
        await directory.remove("ann")
        assert len(told.ended) == 2
        assert refused(directory, text)
        assert principal.grants == ()
        assert not directory.accounts()
        assert not await world.engine.keys("")
        assert directory.principal("ann") is principal
        with pytest.raises(BrokerError) as refusal:
            await directory.remove("ann")
        assert refusal.value.code is Code.NOT_FOUND


async def test_another_password_ends_who_came_by_the_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, told):
        await directory.set_password("ann", "one")
        first = directory.account("ann").by_password
        await directory.set_password("ann", "two")
        assert told.ended == ["password: the password was changed or removed"]
        assert isinstance(first, Identity)
        assert directory.account("ann").by_password is not first


@pytest.mark.parametrize("name", ["local", "", "a/b", "$broker"])
async def test_names_are_checked(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as (_, directory, _told):
        for change in (
            directory.create_token(name),
            directory.add_grants(name, (READ,)),
            directory.set_password(name, "hash"),
        ):
            with pytest.raises(BrokerError) as refusal:
                await change
            assert refusal.value.code is Code.BAD_OPTION


# The first admin


async def test_an_admin_can_do_everything_and_prove_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as (world, directory, _told):
        assert not directory.has_admin()
        await directory.add_grants("ann", (EVERYTHING,))
        assert not directory.has_admin()
        assert directory.has_admin(frozenset({"ann"}))
        await directory.create_token("ann", 1_000)
        assert directory.has_admin()
        world.clock.move(1)
        assert not directory.has_admin()
        await directory.set_password("ann", "hash")
        assert directory.has_admin()
        await directory.remove_grant("ann", EVERYTHING)
        assert not directory.has_admin()


async def test_the_first_admin_token_is_for_this_user_alone_and_works(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, _told):
        elsewhere = tmp_path / "elsewhere"
        (tmp_path / "admin.token").symlink_to(elsewhere)
        path = await make_admin(directory, tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert not path.is_symlink()
        assert not elsewhere.exists()
        principal = directory.identify(path.read_text().strip()).principal
        assert isinstance(principal, Principal)
        assert principal.grants == (EVERYTHING,)
        assert directory.has_admin()


async def test_nobody_becomes_an_admin_for_being_called_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, _told):
        await directory.add_grants("admin", (READ,))
        text, _token = await directory.create_token("admin")
        first = directory.identify((await make_admin(directory, tmp_path)).read_text().strip()).principal
        assert (first.name, first.grants) == ("admin-2", (EVERYTHING,))
        assert directory.identify(text).principal.grants == (READ,)
        # An admin whose tokens have all ended stays the one he is.
        await directory.add_grants("admin", (EVERYTHING,))
        again = directory.identify((await make_admin(directory, tmp_path)).read_text().strip()).principal
        assert again.name == "admin"


async def test_without_its_file_the_first_token_is_no_admins(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, directory, _told):
        with pytest.raises(OSError):
            await make_admin(directory, tmp_path / "not there")
        assert not directory.has_admin()


async def test_the_file_is_in_its_folder_for_good_before_its_token_is_an_admins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (_, directory, _told):
        synced: list[tuple[str, bool]] = []
        real = os.fsync

        def fsync(fd: int) -> None:
            real(fd)
            synced.append((str(Path(f"/proc/self/fd/{fd}").readlink()), directory.has_admin()))

        monkeypatch.setattr(os, "fsync", fsync)
        path = await make_admin(directory, tmp_path)
        assert synced == [(str(path), False), (str(tmp_path), False)]
        assert directory.has_admin()
