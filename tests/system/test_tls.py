"""TLS at every door of the real daemon: spoken, renewed beneath open connections, and refused with the reason."""

import http.client
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from postroom_client import PostroomError
from postroom_client.sync import connect

from broker.cli.app import main
from tests.authority import Authority, Pair
from tests.system.served import WITHIN, Served, handing_over

pytestmark = pytest.mark.system


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def section(pair: Pair, *more: str, name: str = "tls") -> str:
    return "\n".join([f"[{name}]", f'certificate = "{pair.certificate}"', f'key = "{pair.key}"', *more, ""])


def native(served: Served) -> str:
    return f"postrooms://{served.address('native')}"


def dial(served: Served, door: str) -> socket.socket:
    host, _, port = served.address(door).partition(":")
    return socket.create_connection((host, int(port)), timeout=WITHIN)


@contextmanager
def https(served: Served, context: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
    connection = http.client.HTTPSConnection(served.address("http"), context=context, timeout=WITHIN)
    try:
        yield connection
    finally:
        connection.close()


def asked(served: Served, context: ssl.SSLContext, path: str = "/v1/status") -> Any:
    with https(served, context) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def event(response: http.client.HTTPResponse, name: str) -> Any:
    """The data of the next event of this name (a message has none)."""
    current = "message"
    while line := response.readline().decode().rstrip("\n"):
        field, _, value = line.partition(": ")
        if field == "event":
            current = value
        elif field == "data":
            found = json.loads(value) if current == name else None
            response.readline()
            if found is not None:
                return found
            current = "message"
        elif not line:
            continue
    raise AssertionError("the stream ended")


def reloaded(served: Served, text: str) -> None:
    """Send SIGHUP and wait for one more line with this text."""
    before = sum(text in line for line in served.log)
    served.signal(signal.SIGHUP)
    served.until(lambda: sum(text in line for line in served.log) > before)


def test_every_door_speaks_tls_and_says_so(tmp_path: Path, authority: Authority) -> None:
    with Served(tmp_path, section(authority.issue("127.0.0.1", "broker.lan"))) as served:
        served.ready()
        assert f"postroom: native listening on {native(served)}" in served.out
        assert f"postroom: http listening on https://{served.address('http')}" in served.out
        with connect(native(served), tls=str(authority.path)) as client:
            assert client.publish("a", b"x").offset
        with https(served, authority.trusted()) as connection:
            connection.request("GET", "/v1/status", headers={"Host": "broker.lan"})  # a name of the certificate
            answer = connection.getresponse()
            assert answer.status == 200
            told = json.loads(answer.read())["tls"]["http"]
        assert told["names"] == ["broker.lan", "127.0.0.1"]
        assert told["expires_at"].endswith("Z")
        served.signal(signal.SIGTERM)
        assert served.ended() == 0
        assert served.errors() == []


def test_a_renewal_drops_nobody_and_bad_files_change_nothing(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("127.0.0.1", "first.example.com")
    queue = '[queues.work]\ntopics = ["work"]\n'
    with Served(tmp_path, section(pair) + queue) as served:
        served.ready()
        with (
            https(served, authority.trusted()) as following,
            connect(native(served), tls=str(authority.path), name="worker") as worker,
        ):
            following.request("GET", "/v1/stream?topic=work")
            stream = following.getresponse()
            event(stream, "start")
            deliveries = worker.consume("work")

            def work_goes_on(body: str) -> None:
                worker.publish("work", body)
                message = deliveries.receive(WITHIN)
                with message:
                    assert message.data == body
                assert event(stream, "message")["body"] == body

            work_goes_on("before")
            authority.issue("127.0.0.1", "second.example.com")
            reloaded(served, "certificate taken up")
            assert shown(served, "http", authority) == ["127.0.0.1", "second.example.com"]
            assert shown(served, "native", authority) == ["127.0.0.1", "second.example.com"]
            work_goes_on("after")
            pair.key.write_text("nonsense")
            reloaded(served, "the one before stays in use")
            assert shown(served, "http", authority) == ["127.0.0.1", "second.example.com"]
            work_goes_on("still")
            served.until(lambda: any("configuration taken up, but" in line for line in served.log))
            (problem,) = asked(served, authority.trusted())["not_taken_up"]
            assert problem.startswith("tls.key: ")
            told = next(line for line in reversed(served.log) if "configuration taken up" in line)
            assert json.loads(told)["not_taken_up"] == [problem]
            assert json.loads(told)["message"] == "configuration taken up, but not all of it"
            authority.issue("127.0.0.1", days=(-1, 3))
            reloaded(served, "server.pem ends in 3 days")
            served.until(lambda: sum('"configuration taken up"' in line for line in served.log) == 2)
            assert asked(served, authority.trusted())["not_taken_up"] == []
            served.config.write_text(section(authority.issue("127.0.0.1")).replace("[tls]", "[http.tls]") + queue)
            reloaded(served, "configuration taken up")
            told = json.loads(next(line for line in reversed(served.log) if "configuration taken up" in line))
            assert told["needs_restart"] == ["native.tls", "mqtt.tls"]  # to speak plainly; a certificate is taken up
            work_goes_on("at last")


def shown(served: Served, door: str, authority: Authority) -> list[str]:
    """The names of the certificate that a new connection sees."""
    with dial(served, door) as sock, authority.trusted().wrap_socket(sock, server_hostname="127.0.0.1") as tls:
        certificate: Any = tls.getpeercert()
    return sorted(name for _, name in certificate["subjectAltName"])


def test_client_certificates(tmp_path: Path, authority: Authority) -> None:
    own = authority.issue("worker.lan", file="client")
    stranger = Authority(tmp_path / "other").issue("worker.lan", file="client")
    clients = ['client_certificates = "required"', f'client_ca = "{authority.path}"']
    with Served(tmp_path, section(authority.issue("127.0.0.1"), *clients)) as served:
        served.ready()
        with connect(native(served), tls=str(authority.path), certificate=(own.certificate, own.key)) as client:
            assert client.publish("a", b"x").offset
        assert asked(served, authority.trusted(own))["state"] == "running"
        for certificate in (None, (stranger.certificate, stranger.key)):
            with pytest.raises(PostroomError, match="closed the connection at once; it may want a client certificate"):
                connect(native(served), tls=str(authority.path), certificate=certificate, timeout=1)
        for context in (authority.trusted(), authority.trusted(stranger)):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                asked(served, context)
        failed = asked(served, authority.trusted(own))["tls"]
        assert set(failed["native"]["failed_handshakes"]) == {"certificate"}
        assert failed["http"]["failed_handshakes"] == {"certificate": 2}


def test_who_speaks_plainly_or_the_other_way_round_is_told(tmp_path: Path, authority: Authority) -> None:
    only_http = section(authority.issue("127.0.0.1"), name="http.tls")
    with Served(tmp_path, only_http) as served:
        served.ready()
        with dial(served, "http") as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 400
            assert json.loads(answer.read())["detail"] == "this port speaks TLS; write https://"
        with pytest.raises(PostroomError, match=r"no TLS is spoken at postrooms://127.0.0.1:.*; write postroom://"):
            connect(f"postrooms://{served.address('native')}", tls=str(authority.path))
        with dial(served, "native") as client:
            client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            assert b"these look like bytes of TLS" in client.recv(4096)
    with Served(tmp_path, section(authority.issue("127.0.0.1"))) as served:
        served.ready()
        with pytest.raises(PostroomError, match="This port speaks TLS; write postrooms://"):
            connect(f"postroom://{served.address('native')}")
        with pytest.raises(PostroomError, match=r"shows a certificate that is not good: .*POSTROOM_CA"):
            connect(native(served))


def test_half_a_handshake_ends_in_time_and_counts(tmp_path: Path, authority: Authority) -> None:
    config = section(authority.issue("127.0.0.1"), 'handshake_timeout = "1s"') + "[limits]\nmax_connections = 2\n"
    with Served(tmp_path, config) as served:
        served.ready()
        with dial(served, "native") as silent, dial(served, "http") as half:
            half.sendall(b"\x16\x03\x01\x02\x00")
            time.sleep(0.1)  # both are accepted
            begun = time.monotonic()
            with dial(served, "http") as third:
                assert third.recv(1) == b""
            assert silent.recv(1) == b""
            assert half.recv(1) == b""
            assert time.monotonic() - begun < 5
        assert asked(served, authority.trusted())["tls"]["http"]["failed_handshakes"] == {"timeout": 1}


def test_a_start_with_bad_files_ends_in_its_sentence(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("127.0.0.1", days=(-9, -1))
    with Served(tmp_path, section(pair)) as served:
        assert served.ended() == 1
        assert f"postroom: tls.certificate: {pair.certificate} has ended on" in served.log[-1]


def test_sockets_of_the_service_manager_speak_tls(tmp_path: Path, authority: Authority) -> None:
    config = section(authority.issue("127.0.0.1"))
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        Served(tmp_path, config, **handing_over(http=listening)) as served,
    ):
        served.ready()
        assert served.address("http") == f"127.0.0.1:{listening.getsockname()[1]}"
        assert asked(served, authority.trusted())["state"] == "running"


def test_the_command_speaks_tls(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTROOM_CA", str(authority.path))
    with Served(tmp_path, section(authority.issue("127.0.0.1")) + "[native.tls]\nenabled = false\n") as served:
        served.ready()
        url = f"https://{served.address('http')}"
        assert main(["pub", "a", "hello", "--url", url]) == 0
        monkeypatch.delenv("POSTROOM_CA")
        assert main(["status", "--url", url]) == 1
        assert "is not good: " in (said := capsys.readouterr().err)
        assert "postroom --ca CA.pem status" in said
        assert main(["--ca", str(authority.path), "status", "--url", url]) == 0
        assert main(["status", "--url", f"http://{served.address('http')}"]) == 1
        assert "this port speaks TLS; write https://" in capsys.readouterr().err
        assert main(["status", "--url", f"https://{served.address('native')}"]) == 1
        assert "No TLS is spoken at https://" in capsys.readouterr().err
        monkeypatch.setenv("POSTROOM_CA", str(tmp_path / "none"))
        assert main(["status", "--url", url]) == 1
        assert "cannot be used as --ca or POSTROOM_CA: No such file or directory." in capsys.readouterr().err


def test_the_command_shows_a_certificate(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = authority.issue("admin.lan", file="client")
    mine = tmp_path / "mine.pem"
    mine.write_bytes(own.certificate.read_bytes() + own.key.read_bytes())
    for name in ("CA", "CERT"):  # the command's options leave them in the environment
        monkeypatch.setenv(f"POSTROOM_{name}", "")
    clients = ['client_certificates = "required"', f'client_ca = "{authority.path}"']
    with Served(tmp_path, section(authority.issue("127.0.0.1"), *clients)) as served:
        served.ready()
        status = ["status", "--url", f"https://{served.address('http')}"]
        assert main(["--ca", str(authority.path), *status]) == 1
        assert "It may want a certificate that it trusts.\nTry: postroom --cert" in capsys.readouterr().err
        assert main(["--ca", str(authority.path), "--cert", str(mine), *status]) == 0
        assert main(["--cert", str(authority.path), *status]) == 1
        said = capsys.readouterr().err
        assert "cannot be used as --cert or POSTROOM_CERT: it holds no certificate with its key in PEM form." in said


def test_throughput_is_of_the_same_order(tmp_path: Path, authority: Authority) -> None:
    """A sanity check, not a measurement, so the best of several: encryption must not cost most of the rate."""
    best = []
    for config, scheme in (("", "postroom"), (section(authority.issue("127.0.0.1")), "postrooms")):
        folder = tmp_path / scheme
        folder.mkdir()
        with Served(folder, config) as served:
            served.ready()
            options = {"tls": str(authority.path)} if config else {}
            with connect(f"{scheme}://{served.address('native')}", **options) as client:
                seconds = []
                for _ in range(5):
                    begun = time.monotonic()
                    client.publish_many([("a", b"x" * 256)] * 20_000)
                    seconds.append(time.monotonic() - begun)
                best.append(min(seconds))
    assert best[1] < 10 * best[0], best


def test_a_client_certificate_says_who_speaks(tmp_path: Path, authority: Authority) -> None:
    """The names of the certificate, verified in the handshake, are a principal's; its grants hold at both doors."""
    clients = ['client_certificates = "optional"', f'client_ca = "{authority.path}"']
    names = '[auth]\ncertificates = { "URI:spiffe://example.com/billing" = "billing" }\n'
    billing = authority.issue("spiffe://example.com/billing", file="billing")
    other = authority.issue("spiffe://example.com/other", file="other")
    with Served(tmp_path, names + section(authority.issue("127.0.0.1"), *clients)) as served:
        served.ready()
        token = (tmp_path / "data" / "admin.token").read_text().strip()
        admin = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        with https(served, authority.trusted()) as connection:
            body = json.dumps({"grant": "publish bills/#"})
            connection.request("POST", "/v1/principals/billing/grants", body, admin)
            answer = connection.getresponse()
            assert answer.status < 300, answer.read()
        files = (billing.certificate, billing.key)
        with connect(native(served), tls=str(authority.path), certificate=files) as client:
            assert client.publish("bills/1", b"x").offset
            with pytest.raises(PostroomError, match="billing may not publish"):
                client.publish("orders/1", b"x")
        for shown_, topic, status in ((billing, "bills", 201), (billing, "orders", 403), (other, "bills", 401)):
            with https(served, authority.trusted(shown_)) as connection:
                connection.request("POST", f"/v1/topics/{topic}/messages", b"x")
                assert connection.getresponse().status == status
        refused = (other.certificate, other.key)
        with pytest.raises(PostroomError, match="unauthenticated"):
            connect(native(served), tls=str(authority.path), certificate=refused)


def test_a_door_that_others_reach_without_tls_is_warned_of(tmp_path: Path, authority: Authority) -> None:
    others = '[auth]\n[native]\nhost = "0.0.0.0"\n[http]\nhost = "0.0.0.0"\n'
    with Served(tmp_path, others + section(authority.issue("127.0.0.1"), name="http.tls")) as served:
        served.ready()
        (told,) = [json.loads(line) for line in served.log if "in the clear" in line]
        assert (told["level"], told["door"]) == ("warning", "native")
