"""Who is who: without [auth] by place, with it by credential or certificate."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.auth.directory import Directory
from broker.auth.doorkeeper import Strict, Trusting
from broker.auth.identity import LOCALLY, Credentials, Identity, credentials_of
from broker.auth.options import AuthOptions
from broker.core.errors import BrokerError, Code
from broker.engine.keyspace import Keyspace
from tests.engine.world import open_world
from tests.protocols.native.client import make

CERTIFICATES = {"URI:spiffe://example.com/worker": "worker", "DNS:Reader.example.com": "reader"}


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Directory]:
    async with open_world(tmp_path / "data", make) as world:
        yield Directory(Keyspace(world.engine, "auth/"), world.clock.wall)


@pytest.fixture
async def strict(directory: Directory) -> AsyncIterator[Strict]:
    keeper = Strict(directory, AuthOptions(certificates=CERTIFICATES), lambda: 0.0)
    yield keeper
    keeper.close()


def test_without_auth_this_machine_is_local_whatever_it_says() -> None:
    keeper = Trusting()
    assert keeper.greet(here=True, names=()) is LOCALLY
    assert keeper.check(LOCALLY, Credentials("pr_made_up")) is LOCALLY
    assert keeper.greet(here=False, names=()) is None
    with pytest.raises(BrokerError) as refusal:
        keeper.check(None, Credentials("pr_made_up"))
    assert refusal.value.code is Code.FORBIDDEN


async def test_with_auth_this_machine_is_nobody(strict: Strict) -> None:
    assert strict.greet(here=True, names=()) is None
    with pytest.raises(BrokerError, match="postroom token create") as refusal:
        strict.check(None, None)
    assert refusal.value.code is Code.UNAUTHENTICATED


async def test_a_token_or_a_password(strict: Strict, directory: Directory) -> None:
    text, _ = await directory.create_token("ann")
    await directory.set_password("ann", await strict.passwords.hash("correct horse"))
    by_token = strict.check(None, Credentials(text))
    assert by_token is strict.check(None, credentials_of("whoever", text))
    password = credentials_of("ann", "correct horse")
    assert strict.check(None, password) is None
    by_password = await strict.prove(password, "10.0.0.1")
    assert isinstance(by_token, Identity)
    assert by_password.principal is by_token.principal
    said = set()
    for user, wrong in (("ann", "wrong password"), ("nobody", "correct horse")):
        with pytest.raises(BrokerError) as refusal:
            await strict.prove(credentials_of(user, wrong), "10.0.0.1")
        said.add(refusal.value.text)
    assert len(said) == 1


async def test_names_that_nobody_can_have_are_not_remembered(strict: Strict) -> None:
    for name in ("x" * 60_000, "a b", ""):
        with pytest.raises(BrokerError, match="the user or the password is wrong"):
            await strict.prove(Credentials(None, name, "correct horse"), "10.0.0.1")
    assert not strict.passwords._by_name._debts


@pytest.mark.parametrize(
    ("names", "principal"),
    [
        (["URI:spiffe://example.com/worker"], "worker"),
        (["DNS:reader.EXAMPLE.com", "DNS:other"], "reader"),
        (["URI:spiffe://example.com/worker/x"], None),
        (["DNS:spiffe://example.com/worker"], None),
        (["DNS:x.reader.example.com"], None),
        (["DNS:*.example.com"], None),
        (["URI:spiffe://example.com/worker", "DNS:reader.example.com"], None),  # no guessing
        ([], None),
    ],
)
async def test_a_certificate_speaks_for_whom_the_map_says(
    strict: Strict, names: list[str], principal: str | None
) -> None:
    identity = strict.greet(here=False, names=names)
    assert (identity and identity.principal.name) == principal
    assert strict.greet(here=False, names=names) is identity
    if identity is not None:
        assert strict.check(identity, None) is identity


async def test_credentials_go_before_a_certificate(strict: Strict, directory: Directory) -> None:
    text, _ = await directory.create_token("ann")
    greeted = strict.greet(here=False, names=["DNS:reader.example.com"])
    identity = strict.check(greeted, Credentials(text))
    assert identity is not None
    assert identity.principal.name == "ann"


async def test_a_certificate_that_is_mapped_no_longer_has_ended(strict: Strict, directory: Directory) -> None:
    ended: list[Identity] = []
    directory.ended.append(ended.append)
    reader = strict.greet(here=False, names=["DNS:reader.example.com"])
    worker = strict.greet(here=False, names=["URI:spiffe://example.com/worker"])
    strict.take_up(AuthOptions(certificates=CERTIFICATES | {"DNS:Reader.example.com": "x"}))
    assert ended == [reader]
    with pytest.raises(BrokerError, match=r"auth\.certificates"):
        strict.check(reader, None)
    assert strict.check(worker, None) is worker
    again = strict.greet(here=False, names=["DNS:reader.example.com"])
    assert again is not None
    assert again.principal.name == "x"


@pytest.mark.parametrize("certificates", [{"reader.example.com": "x"}, {"URI:a": "local"}, {"DNS:a": "a b"}])
def test_a_map_that_is_none_is_refused(certificates: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        AuthOptions(certificates=certificates)


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(Credentials("pr_x_secret", "u", "secret"))
