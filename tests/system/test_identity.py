"""`[auth]` from the outside: the first start, the command, the clients, certificates; the daemon as a process."""

import asyncio
import io
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import postroom_client.sync
import pytest
from postroom_client import PostroomError

from broker.cli.app import main
from tests.authority import Authority
from tests.system.served import Served

pytestmark = pytest.mark.system

Run = Callable[..., tuple[int, str, str]]
VARIABLES = ("POSTROOM_TOKEN", "POSTROOM_TOKEN_FILE", "POSTROOM_HTTP_URL", "POSTROOM_URL", "POSTROOM_CA")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, "[auth]\nfailed_passwords = 3\n") as served:
        yield served.ready()


def admin_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "admin.token"


@pytest.fixture
def run(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """A command line as the first admin; returns exit code, stdout, stderr."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("POSTROOM_HTTP_URL", f"http://{served.address('http')}")
    monkeypatch.setenv("POSTROOM_TOKEN_FILE", str(admin_file(tmp_path)))

    def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    monkeypatch.undo()


def native(served: Served) -> str:
    return f"postroom://{served.address('native')}"


def test_the_first_start_leaves_a_token_and_the_next_one_does_not(tmp_path: Path) -> None:
    with Served(tmp_path, "[auth]\n") as served:
        served.ready()
        assert any(f"export POSTROOM_TOKEN_FILE={admin_file(tmp_path)}" in line for line in served.out)
        assert admin_file(tmp_path).stat().st_mode & 0o777 == 0o600
        assert admin_file(tmp_path).read_text().strip() not in "".join(served.out + served.log)
        served.signal(signal.SIGKILL)
        served.ended()
    before = admin_file(tmp_path).read_text()
    with Served(tmp_path, "[auth]\n") as served:
        served.ready()
        assert not any("admin" in line for line in served.out)
        assert admin_file(tmp_path).read_text() == before
        with postroom_client.sync.connect(native(served), token=before.strip()) as client:
            client.publish("orders/created", {"n": 1})


def test_others_may_reach_it_with_auth_and_not_without(tmp_path: Path) -> None:
    with Served(tmp_path, '[http]\nhost = "0.0.0.0"\n') as served:
        assert served.ended() != 0
        assert "[auth]" in "\n".join(served.log)
    with Served(tmp_path, '[auth]\n[http]\nhost = "0.0.0.0"\n') as served:
        assert served.ready().address("http").startswith("0.0.0.0:")


def test_from_a_token_to_its_end_by_the_command(run: Run, served: Served) -> None:
    code, token, remark = run("token", "create", "billing", "--lifetime", "1h", "--grant", "publish orders/#")
    assert code == 0
    assert token.startswith("pr_")
    assert "billing may: publish orders/#" in remark
    token = token.strip()
    token_id = token.split("_")[1]
    rows = json.loads(run("token", "ls", "billing", "-o", "json")[1])
    assert [(row["principal"], row["id"]) for row in rows] == [("billing", token_id)]
    assert rows[0]["expires_at"]
    assert token.split("_")[2] not in run("token", "ls", "-o", "ndjson")[1] + run("user", "ls", "-o", "json")[1]

    with postroom_client.sync.connect(native(served), token=token) as client:
        client.publish("orders/created", {"n": 1})
        with pytest.raises(PostroomError, match="postroom grant add billing publish prices/tsla") as refused:
            client.publish("prices/tsla", {"n": 1})
        assert refused.value.code == "forbidden"
        assert run("grant", "add", "billing", "publish", "prices/#")[0] == 0
        client.publish("prices/tsla", {"n": 1})
        code, _, asked = run("grant", "rm", "billing", "publish", "prices/#", stdin="")
        assert code == 2
        assert "add --yes" in asked
        assert run("grant", "rm", "billing", "publish", "prices/#", "--yes")[0] == 0
        with pytest.raises(PostroomError):
            client.publish("prices/tsla", {"n": 1})
        assert json.loads(run("grant", "ls", "billing", "-o", "ndjson")[1])["grant"] == "publish orders/#"
        assert run("token", "revoke", token_id, "--yes")[0] == 0
        with pytest.raises(PostroomError, match="revoked") as ended:
            client.publish("orders/created", {"n": 2})
        assert ended.value.code == "unauthenticated"
    assert run("token", "revoke", token_id, "--yes")[0] == 1


def test_a_user_with_a_password(run: Run, served: Served) -> None:
    assert run("user", "set", "ann", stdin="short\n")[0] == 1
    assert run("user", "set", "ann", stdin="correct horse\n")[0] == 0
    assert run("grant", "add", "ann", "admin")[0] == 0
    (row,) = [json.loads(line) for line in run("user", "ls", "-o", "ndjson")[1].splitlines() if "ann" in line]
    assert row == {"name": "ann", "grants": ["admin"], "tokens": 0, "password": True}
    url = native(served)
    with postroom_client.sync.connect(url, user="ann", password="correct horse") as client:
        client.publish("a", "x")
    for _ in range(3):
        with pytest.raises(PostroomError) as refused:
            postroom_client.sync.connect(url, user="bob", password="wrong password", timeout=5)
    assert refused.value.code in ("unauthenticated", "connection_lost")
    code, _, asked = run("user", "rm", "ann", stdin="")
    assert code == 2
    assert "Remove ann with 0 tokens and 1 grants?" in asked
    assert run("user", "rm", "ann", "--yes")[0] == 0
    with pytest.raises(PostroomError):
        postroom_client.sync.connect(url, user="ann", password="correct horse", timeout=1)


def test_the_command_says_what_to_do_without_a_token_or_without_a_right(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = run("token", "create", "guest")[1].strip()
    monkeypatch.setenv("POSTROOM_TOKEN_FILE", "")
    code, _, text = run("queue", "ls")
    assert code == 1
    assert "export POSTROOM_TOKEN_FILE=" in text
    code, _, text = run("--token", token, "token", "ls")
    assert code == 1
    assert "guest is no admin" in text
    code, _, text = run("--token", token, "pub", "orders/created", "x")
    assert code == 1
    assert "postroom grant add guest publish orders/created" in text
    monkeypatch.setenv("POSTROOM_TOKEN", "")
    code, _, text = run("--token-file", "/nowhere/token", "status")
    assert code == 1
    assert "/nowhere/token cannot be read" in text


def test_the_clients_take_a_token_from_the_environment(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = run("token", "create", "billing", "--grant", "publish orders/#")[1].strip()
    monkeypatch.setenv("POSTROOM_URL", native(served))
    with pytest.raises(PostroomError, match="token"):
        postroom_client.sync.connect(timeout=1)
    monkeypatch.setenv("POSTROOM_TOKEN", token)

    async def publish() -> int:
        async with postroom_client.connect() as client:
            receipt = await client.publish("orders/created", {"n": 1})
            return receipt.offset or 0

    assert asyncio.run(publish()) > 0


def test_a_certificate_speaks_for_whom_the_configuration_says(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server, client = authority.issue("127.0.0.1"), authority.issue("worker.example.com", file="worker")
    tls = (
        f'[tls]\ncertificate = "{server.certificate}"\nkey = "{server.key}"\n'
        f'client_ca = "{authority.path}"\nclient_certificates = "optional"\n'
    )
    mapped = tls + '[auth]\ncertificates = { "DNS:worker.example.com" = "worker" }\n'
    with Served(tmp_path, mapped) as served:
        served.ready()
        url = f"postrooms://{served.address('native')}"
        options = {"tls": str(authority.path), "certificate": (str(client.certificate), str(client.key))}
        with postroom_client.sync.connect(url, **options) as worker:
            with pytest.raises(PostroomError, match="worker may not publish"):
                worker.publish("a", "x")
            served.config.write_text(tls + "[auth]\n")
            served.signal(signal.SIGHUP)
            with pytest.raises(PostroomError, match=r"auth\.certificates"):
                ask_for_ever(worker)


def ask_for_ever(client: postroom_client.sync.Client) -> None:
    """Until it is refused."""
    while True:
        client.subscriptions()
