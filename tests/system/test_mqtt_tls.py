"""Client certificates at the MQTT door of a real daemon: who they stand for, who is refused, what a reload changes."""

import asyncio
import http.client
import json
import signal
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V5, V311, Connack, Connect, Disconnect
from tests.authority import Authority, Pair
from tests.protocols.mqtt.door import Client
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system
NAMES = {"URI:spiffe://example.com/billing": "billing", "DNS:Worker-1.example.com": "billing"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def config(authority: Authority, clients: str, names: dict[str, str] | None = None, ca: Path | None = None) -> str:
    """TLS at the MQTT door alone; with `names` in [auth]."""
    server = authority.issue("127.0.0.1")
    mapped = ", ".join(f'"{name}" = "{principal}"' for name, principal in (names or {}).items())
    return "\n".join(
        [
            *([] if names is None else ["[auth]", f"certificates = {{ {mapped} }}"]),
            *("[mqtt.tls]", f'certificate = "{server.certificate}"', f'key = "{server.key}"'),
            *(f'client_certificates = "{clients}"', f'client_ca = "{ca or authority.path}"', ""),
        ]
    )


class Callers:
    """Clients of one daemon, and what each showed it."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._clients: list[Client] = []

    async def dial(self, served: Served, shown: Pair | None = None, version: int = V5) -> Client:
        """The handshake is done, and nothing said yet."""
        host, _, port = served.address("mqtt").partition(":")
        streams = await asyncio.open_connection(host, int(port), ssl=self._authority.trusted(shown))
        self._clients.append(Client(*streams, version))
        return self._clients[-1]

    async def let_in(self, served: Served, shown: Pair | None) -> bool:
        """Is it answered? In TLS 1.3 a client learns only with its first read that its certificate is not taken."""
        try:
            client = await self.dial(served, shown)
            client.write(Connect(V5, "let-in"))
            await client.hear(Connack)
        except (ssl.SSLError, ConnectionError, AssertionError):
            return False
        return True

    async def close(self) -> None:
        for client in self._clients:
            await client.lost()


@pytest.fixture
async def callers(authority: Authority) -> AsyncIterator[Callers]:
    made = Callers(authority)
    yield made
    await made.close()


async def refused(client: Client, name: str = "c", **given: Any) -> Reason:
    """What the CONNACK says."""
    client.write(Connect(client.version, name, **given))
    answer = await client.hear(Connack)
    await client.closed()
    return answer.reason


def ask(served: Served, method: str, path: str, body: Any = None) -> Any:
    """As admin, where there is one."""
    headers = {"Content-Type": "application/json"}
    token = served.config.parent / "data" / "admin.token"
    if token.exists():
        headers["Authorization"] = f"Bearer {token.read_text().strip()}"
    connection = http.client.HTTPConnection(served.address("http"), timeout=WITHIN)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read() or b"null")
        assert answer.status < 300, said
        return said
    finally:
        connection.close()


async def reload(served: Served, text: str) -> None:
    before = sum("configuration taken up" in line for line in served.log)
    served.config.write_text(text)
    served.signal(signal.SIGHUP)
    await asyncio.to_thread(served.until, lambda: sum("configuration taken up" in line for line in served.log) > before)


async def test_its_names_say_who_speaks(tmp_path: Path, authority: Authority, callers: Callers) -> None:
    by_uri = authority.issue("spiffe://example.com/billing", file="billing")
    by_dns = authority.issue("WORKER-1.example.com", file="worker")
    strangers: Sequence[Pair | None] = (None, authority.issue("spiffe://example.com/other", file="other"))
    with Served(tmp_path, config(authority, "optional", NAMES)) as served:
        served.ready()
        ask(served, "POST", "/v1/principals/billing/grants", {"grant": "publish bills/#"})
        for number, mapped in enumerate((by_uri, by_dns)):
            client = await (await callers.dial(served, mapped)).greet(f"c{number}")
            assert await client.publish("bills/1", "x") is Reason.SUCCESS
            assert await client.publish("orders/1", "x") is Reason.NOT_AUTHORIZED
            assert (await client.subscribe("bills/#")).reasons == (Reason.NOT_AUTHORIZED,)
        for shown in strangers:
            for version in (V311, V5):
                assert await refused(await callers.dial(served, shown, version)) is Reason.NOT_AUTHORIZED
        wrong = await refused(await callers.dial(served, by_uri), username="billing", password=b"a guess")
        assert wrong is Reason.BAD_USER_NAME_OR_PASSWORD  # who says more than its certificate is held to it
        assert served.errors() == []


async def test_without_a_good_one_nobody_comes_in(tmp_path: Path, authority: Authority, callers: Callers) -> None:
    good = authority.issue("worker.lan", file="good")
    expired = authority.issue("worker.lan", file="expired", days=(-9, -1))
    early = authority.issue("worker.lan", file="early", days=(1, 9))
    forged = Authority(tmp_path / "other").issue("worker.lan", file="forged")
    with Served(tmp_path, config(authority, "required")) as served:
        served.ready()
        before = await (await callers.dial(served, good)).greet("before")
        for shown in (None, expired, early, forged):
            assert not await callers.let_in(served, shown)
        assert ask(served, "GET", "/v1/status")["tls"]["mqtt"]["failed_handshakes"] == {"certificate": 4}
        assert await before.publish("a", "x") is Reason.SUCCESS
        await (await callers.dial(served, good)).greet("after")
        assert served.errors() == []


async def test_a_reload_changes_who_is_known_and_whom_it_trusts(
    tmp_path: Path, authority: Authority, callers: Callers
) -> None:
    billing = authority.issue("spiffe://example.com/billing", file="billing")
    worker = authority.issue("worker-1.example.com", file="worker")
    with Served(tmp_path, config(authority, "optional", NAMES)) as served:
        served.ready()
        ask(served, "POST", "/v1/principals/billing/grants", {"grant": "publish bills/#"})
        gone = await (await callers.dial(served, billing)).greet("gone")
        stays = await (await callers.dial(served, worker)).greet("stays")

        await reload(served, config(authority, "optional", {"DNS:worker-1.example.com": "billing"}))
        assert (await gone.hear(Disconnect)).reason is Reason.NOT_AUTHORIZED
        await gone.closed()
        assert await refused(await callers.dial(served, billing)) is Reason.NOT_AUTHORIZED
        assert await stays.publish("bills/1", "x") is Reason.SUCCESS

        other = Authority(tmp_path / "other")
        theirs = other.issue("worker-1.example.com", file="theirs")
        await reload(served, config(authority, "required", NAMES, ca=other.path))
        assert await stays.publish("bills/2", "x") is Reason.SUCCESS  # nobody who is in is dropped
        assert not await callers.let_in(served, worker)
        client = await (await callers.dial(served, theirs)).greet("again")
        assert await client.publish("bills/3", "x") is Reason.SUCCESS
        assert served.errors() == []
