"""The configuration: where values come from, and what its author is told when one does not fit."""

import os
from pathlib import Path
from typing import Any

import pytest

from broker.auth.options import AuthOptions
from broker.config import Config, ConfigError, check_config, load_config
from broker.connectors.file.options import DropOptions
from broker.core.retention import Durability
from broker.core.subscription import Kind
from tests.authority import Authority

ROOT = Path(__file__).parents[1]


def loaded(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **options: Any) -> Config:
    path = tmp_path / "postroom.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path, environ or {}, **options)


def problems(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, environ)
    return [str(problem) for problem in caught.value.problems]


def test_without_a_file_it_is_loopback_and_the_known_ports() -> None:
    config = load_config(environ={})
    assert (config.native.host, config.native.port) == ("127.0.0.1", 7600)
    assert (config.http.host, config.http.port) == ("127.0.0.1", 7680)
    assert config.data_dir == Path("postroom-data")
    assert config.source is None


def test_the_shipped_file_loads_and_changes_nothing_but_what_it_declares() -> None:
    config = load_config(ROOT / "config" / "postroom.toml", {})
    default = load_config(environ={})
    sections = ("data_dir", "grace", "tls", "native", "http", "mqtt", "limits", "engine", "log", "webhooks")
    assert {s: getattr(config, s) for s in sections} == {s: getattr(default, s) for s in sections}


def test_the_shipped_file_names_every_setting() -> None:
    text = (ROOT / "config" / "postroom.toml").read_text()
    missing = [
        f"{section}.{name}"
        for section, model in (*_models(Config()), ("engine.sqlite", type(Config().engine.sqlite)))
        for name in model.model_fields
        if f"{name} = " not in _table(text, section)
    ]
    assert missing == []


def test_the_shipped_file_names_every_setting_of_a_drop_folder() -> None:
    example = (ROOT / "config" / "postroom.toml").read_text().partition("#| [[drop]]\n")[2].partition("\n\n")[0]
    assert {line.split()[1] for line in example.splitlines()} == set(DropOptions.model_fields)


def _models(config: Config) -> list[tuple[str, Any]]:
    return [(s, type(getattr(config, s))) for s in ("tls", "native", "http", "mqtt", "limits", "log", "webhooks")]


def _table(text: str, name: str) -> str:
    return text.partition(f"\n[{name}]\n")[2].partition("\n[")[0]


def test_the_conformance_profile_loads() -> None:
    config = load_config(ROOT / "config" / "mqtt-conformance.toml", {})
    assert (config.mqtt.max_keep_alive, config.mqtt.receive_maximum) == (60_000, 20)


def test_the_examples_in_the_shipped_file_are_good_when_uncommented(tmp_path: Path) -> None:
    text = (ROOT / "config" / "postroom.toml").read_text()
    lines = [line.removeprefix("#|").removeprefix(" ") for line in text.splitlines() if line.startswith("#|")]
    config = loaded(tmp_path, "\n".join(lines), {"CREDENTIALS_DIRECTORY": str(_credentials(tmp_path))})
    assert config.queues
    assert config.streams
    assert config.topics
    assert config.drop
    assert config.mqtt_bridge


def _credentials(tmp_path: Path) -> Path:
    (tmp_path / "webhook-secret").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    (tmp_path / "bridge-plant").write_text("sesame\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[limits]\nmax_bodi = 5", "limits.max_bodi: unknown key; did you mean max_body?"),
        ("[nativ]\nport = 5", "nativ: unknown key; did you mean native?"),
        (
            '[[mqtt_bridge]]\nname = "a"\naddress = "mqtt://b"\ntopics = []',
            "mqtt_bridge[0].topics: is too short; give at least 1",
        ),
        (
            '[[mqtt_bridge]]\nname = "a"\naddress = "mqtt://b"\ntopics = [{ filter = "a/#" }]',
            "mqtt_bridge[0].topics[0].direction: is missing; set it",
        ),
        ("[mqtt]\nmax_body = 5", "mqtt.max_body: unknown key here; it stands in [limits]"),
        ("[limits]\nport = 5", "limits.port: unknown key here; it stands in [native] and in [http] and in [mqtt]"),
        ("[log]\nzzz = 5", "log.zzz: unknown key; there are access, format, level"),
        ("[native]\nport = 70000", "native.port: must be less than or equal to 65535, not 70000"),
        ('[native]\nport = "high"', "native.port: must be a valid integer"),
        ('[log]\nlevel = "lout"', "log.level: must be 'debug', 'info', 'warning' or 'error', not 'lout'"),
        (
            '[webhooks]\nallow = ["10.1.0.0/33"]',
            "webhooks.allow[0]: '10.1.0.0/33' does not appear to be an IPv4 or IPv6",
        ),
        ('grace = "soon"', "grace: 'soon' is no duration; write 500ms, 30s, 5m, 2h, 7d or seconds"),
        ("[native]\ntcp = false", "native: tcp = false needs a unix path, or nobody can connect"),
        ("[engine.sqlite]\ncash = 5", "engine.sqlite.cash: unknown key; did you mean cache?"),
        ("[queues.orders]\ntopics = []", "queues.orders: topics must be a list of 1 to 100 topic filters"),
        ('[queues.o]\ntopics = ["o"]\nmax_mesages = 1', "queues.o: no option 'max_mesages'; there are"),
        ('[queues."a b"]\ntopics = ["o"]', "queues.\"a b\": 'a b' is no name"),
        ('[queues.o]\nkind = "queue"\ntopics = ["o"]', "queues.o: take out kind"),
        ('[queues.o]\ntopics = ["a/#/b"]', "queues.o: 'a/#/b': '#' must be the whole last level"),
        ('[queues.o]\ntopics = ["o"]\nwebhook = {url = "x"}', "queues.o: webhook.url must begin with https://"),
        ('[streams.o]\ntopics = ["o"]\nlease = "5s"', "streams.o: lease is for queues; this is a stream"),
        ('[queues.o]\ntopics = ["o"]\n[streams.o]\ntopics = ["o"]', "streams.o: there is a queue of that name"),
        ('[topics."a/#"]\nage = "long"', "topics.\"a/#\": retention of 'a/#': age: 'long' is no duration"),
        ("queues = 5", "queues: must be a valid dictionary, not 5"),
        ("[limits]\nmax_frame = 1048576", "limits.max_frame: a message of limits.max_body does not fit"),
        ("[http]\nport = 7600", "http.port: 7600 is the native port as well"),
        ("[native", "TOML: "),
        ('[[drop]]\npath = "/in"\ntopic = "a"\nbach = 5', "drop[0].bach: unknown key; did you mean batch?"),
        ('[[drop]]\npath = "/in"\n[[drop]]\npath="/b"\ntopic = "a"', "drop[0].topic: is missing; set it"),
        ('[[drop]]\npath = "/in"\ntopic = "a"\n[[drop]]\npath="/in/"\ntopic = "b"', "drop[1].path: /in is drop[0]'s"),
    ],
)
def test_a_problem_is_told_by_its_key_and_with_the_mend(tmp_path: Path, text: str, problem: str) -> None:
    (told,) = problems(tmp_path, text)
    assert told.startswith(problem)


def test_one_folder_under_two_names_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    file = tmp_path / "postroom.toml"
    file.write_text("".join(f'[[drop]]\npath = "{tmp_path / name}"\ntopic = "a"\n' for name in ("in", "alias")))
    with pytest.raises(ConfigError, match=r"drop\[1\]\.path"):
        load_config(file, {})


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, '[limits]\nmax_bodi = 5\n[log]\nlevel = "lout"\nfile = "${env:NOPE}"', {})
    assert [text.partition(":")[0] for text in told] == ["log.file", "limits.max_bodi", "log.level", "log.file"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "broker.example.com"])
@pytest.mark.parametrize("door", ["native", "http"])
def test_a_listener_that_others_reach_is_refused_with_the_lines_to_write(tmp_path: Path, door: str, host: str) -> None:
    (told,) = problems(tmp_path, f'[{door}]\nhost = "{host}"')
    assert told.startswith(f"{door}.host: '{host}'")
    assert f'[{door}]\n    host = "127.0.0.1"' in told
    assert "\n    [auth]\n" in told
    assert loaded(tmp_path, f'[auth]\n[{door}]\nhost = "{host}"')


def test_an_empty_section_turns_authentication_on(tmp_path: Path) -> None:
    assert loaded(tmp_path, "").auth is None
    assert loaded(tmp_path, "[auth]").auth == AuthOptions()
    (told,) = problems(tmp_path, '[auth]\ncertificates = { "worker" = "mailer" }')
    assert told.startswith("auth.certificates: ")
    assert "URI:spiffe://" in told


def test_the_shipped_file_names_every_setting_of_auth() -> None:
    example = (ROOT / "config" / "postroom.toml").read_text().partition("#| [auth]\n")[2].partition("\n\n")[0]
    assert {line.split()[1] for line in example.splitlines()} == set(AuthOptions.model_fields)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    environ = {
        "POSTROOM_NATIVE__PORT": "0",
        "POSTROOM_ENGINE__SQLITE__CACHE": "1000",
        "POSTROOM_WEBHOOKS__ALLOW": '["127.0.0.0/8"]',
        "POSTROOM_DATA_DIR": str(tmp_path / "d"),
        "POSTROOM_GRACE": "3",
        "POSTROOM_URL": "for somebody else",
    }
    config = loaded(tmp_path, "[native]\nport = 1\nheartbeat = 5", environ)
    assert (config.native.port, config.native.heartbeat, config.grace) == (0, 5_000, 3_000)
    assert config.engine.sqlite.cache == 1_000
    assert [str(network) for network in config.webhooks.allow] == ["127.0.0.0/8"]
    assert config.data_dir == tmp_path / "d"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("POSTROOM_NATVE__PORT", "1", "POSTROOM_NATVE__PORT: there is no section 'natve'"),
        ("POSTROOM_NATIVE__PROT", "1", "native.prot: unknown key; did you mean port?"),
        ("POSTROOM_NATIVE__PORT", "x", "native.port: must be a valid integer"),
        ("POSTROOM_QUEUES__ORDERS__LEASE", "5s", "POSTROOM_QUEUES__ORDERS__LEASE: queues can be declared"),
    ],
)
def test_a_variable_that_fits_nowhere_is_told(tmp_path: Path, name: str, value: str, problem: str) -> None:
    (told,) = problems(tmp_path, environ={name: value})
    assert told.startswith(problem)


def test_where_the_data_goes(tmp_path: Path) -> None:
    state = {"STATE_DIRECTORY": "/var/lib/postroom:/var/lib/other"}
    assert load_config(environ=state).data_dir == Path("/var/lib/postroom")
    assert loaded(tmp_path, 'data_dir = "/x"', state).data_dir == Path("/x")
    assert loaded(tmp_path, 'data_dir = "/x"', state, data_dir=Path("/y")).data_dir == Path("/y")


def test_values_from_the_environment_files_and_credentials(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("127.0.0.2\n")
    (tmp_path / "level").write_text("debug")
    config = loaded(
        tmp_path,
        'data_dir = "/${env:A}/$${x}"\n[native]\nhost = "${file:%s}"\n[log]\nlevel = "${credential:level}"'
        % (tmp_path / "host"),
        {"A": "a", "CREDENTIALS_DIRECTORY": str(tmp_path)},
    )
    assert (str(config.data_dir), config.native.host, config.log.level) == ("/a/${x}", "127.0.0.2", "debug")
    assert config.secrets == {"127.0.0.2", "debug"}


def test_what_stands_at_a_key_named_like_a_secret_is_secret(tmp_path: Path) -> None:
    queue = '[queues.o]\ntopics = ["o"]\nwebhook = {url = "https://example.com/", secret = "%s"}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert loaded(tmp_path, queue % secret).secrets == {secret}
    assert loaded(tmp_path, queue % "${env:S}", {"S": secret}).secrets == {secret}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${env:NOPE}", "the environment has no NOPE"),
        ("${file:/nowhere/at/all}", "cannot read /nowhere/at/all: No such file or directory"),
        ("${credential:x}", "write LoadCredential=x:/path"),
        ("${NOPE}", "write ${env:NAME}, ${file:PATH} or ${credential:NAME}"),
        ("${env:X", "write ${env:NAME}"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(tmp_path: Path, text: str, problem: str) -> None:
    (told,) = problems(tmp_path, f'data_dir = "{text}"')
    assert told.startswith("data_dir: ")
    assert problem in told


def test_a_credential_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "creds").mkdir()
    (tmp_path / "secret").write_text("x")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "creds")}
    assert "no credential '../secret'" in problems(tmp_path, 'data_dir = "${credential:../secret}"', environ)[0]


def test_a_secret_that_does_not_fit_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hunter2hunter2")
    (told,) = problems(tmp_path, '[native]\nport = "${file:%s}"' % (tmp_path / "s"))
    assert "hunter2" not in told


def test_what_is_declared_comes_parsed(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        '[queues.orders]\ntopics = ["orders/#"]\nlease = "1m"\n[streams.audit]\ntopics = ["#"]\n'
        '[topics."orders/#"]\nage = "7d"\n[topics."live/#"]\ndurability = "memory"',
    )
    orders, audit = config.specs()
    assert (orders.name, orders.kind, orders.lease, audit.kind) == ("orders", Kind.QUEUE, 60_000, Kind.STREAM)
    assert config.policies().of("orders/new").retention.age == 7 * 86_400_000
    assert config.policies().of("live/x").durability is Durability.MEMORY


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory; copy config/postroom\.toml there"):
        load_config(tmp_path / "nope.toml", {})
    (tmp_path / "bin.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 5"):
        load_config(tmp_path / "bin.toml", {})


def test_check_config_tells_a_person(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "postroom.toml"
    path.write_text("[limits]\nmax_bodi = 5")
    assert not check_config(path, {}, said.append)
    assert said == [f"{path} cannot be used:\n  limits.max_bodi: unknown key; did you mean max_body?"]
    path.write_text('[queues.o]\ntopics = ["o"]')
    assert check_config(path, {}, said.append)
    assert said[1:] == [f"{path} is good: data in postroom-data, 1 queues, 0 streams, 0 drop folders, 0 bridges"]


def test_check_config_tells_every_problem_beside_unknown_keys(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "postroom.toml"
    path.write_text(
        'colour = 1\n[http]\nport = 7600\ncolor = 2\n[tls]\ncertificate = "none.pem"\n'
        '[queues.o]\ntopics = ["a/#/b"]\n[[drop]]\npath = "a"\ntopic = "a"\n'
        '[[drop]]\npath = "a"\ntopic = "b"\ncolour = 3'
    )
    assert not check_config(path, {}, said.append)
    (text,) = said
    told = [line.strip().partition(": ")[0] for line in text.splitlines()[1:]]
    unknown = ["http.color", "drop[1].colour", "colour"]
    assert told == [*unknown, "http.port", "queues.o", "drop[1].path", "tls.certificate"]


def test_check_config_warns_of_folders_that_cannot_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    path, folder = tmp_path / "postroom.toml", tmp_path / "in"
    path.write_text(f'[[drop]]\npath = "{folder}"\ntopic = "a"\n')
    assert check_config(path, {}, said.append)
    assert said[0] == f"warning: drop[0].path: {folder} is no folder; create it, or mend path"
    folder.mkdir()
    said.clear()
    assert check_config(path, {}, said.append)
    assert len(said) == 1
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do everything
    assert check_config(path, {}, said.append)
    assert f"drop[0].path: this user may not read and write {folder}" in said[1]


def test_check_config_warns_of_secrets_that_others_read(tmp_path: Path) -> None:
    path, secret = tmp_path / "postroom.toml", tmp_path / "secret"
    queue = '[queues.o]\ntopics = ["o"]\nwebhook = {url = "https://example.com/", secret = "%s"}'
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    def warnings(text: str, mode: int) -> list[str]:
        said: list[str] = []
        path.write_text(queue % text)
        path.chmod(mode)
        secret.chmod(mode)
        assert check_config(path, {}, said.append)
        return said[:-1]

    assert warnings(secret.read_text(), 0o600) == []
    assert warnings(f"${{file:{secret}}}", 0o600) == []
    (plain,) = warnings(secret.read_text(), 0o644)
    assert plain.startswith(f"warning: {path} holds secrets")
    (referred,) = warnings(f"${{file:{secret}}}", 0o644)
    assert referred.startswith(f"warning: {secret} holds a secret")


# TLS


def test_tls_of_one_door_stands_over_that_of_all(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        [tls]
        certificate = "all.pem"
        key = "all.key"
        [native.tls]
        certificate = "native.pem"
        minimum_version = "1.3"
        [http.tls]
        enabled = false
        """,
    )
    native = config.tls_of("native")
    assert native is not None
    assert (native.certificate, native.key, native.minimum_version) == (Path("native.pem"), Path("all.key"), "1.3")
    assert config.tls_of("http") is None
    assert Config().tls_of("native") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[tls]\nkey = "x"', "tls.certificate: is missing; name a PEM file, or set enabled = false"),
        ('[http.tls]\nkey = "x"', "http.tls.certificate: is missing; name a PEM file, or set enabled = false"),
        (
            '[tls]\ncertificate = "x"\nclient_certificates = "required"',
            "tls.client_ca: is missing; name a PEM file with the authorities of client certificates",
        ),
        (
            '[tls]\ncertificate = "x"\n[native.tls]\nclient_ca = "y"',
            'native.tls.client_certificates: nobody is asked for one; write "optional" or "required"',
        ),
        ("[tls]\ncertifikate = 5", "tls.certifikate: unknown key; did you mean certificate?"),
        ('[tls]\nminimum_version = "1.1"', "tls.minimum_version: must be '1.2' or '1.3', not '1.1'"),
    ],
)
def test_tls_that_does_not_fit_together(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_the_check_reads_the_files_of_tls(tmp_path: Path) -> None:
    pair = Authority(tmp_path / "ca").issue("localhost", days=(-1, 3))
    path = tmp_path / "postroom.toml"
    said: list[str] = []
    path.write_text(f'[tls]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n')
    assert check_config(path, {}, said.append)
    assert f"warning: {pair.certificate} ends in 3 days" in said[0]
    assert len(said) == 2
    pair.key.chmod(0o644)
    assert check_config(path, {}, said.append)
    assert f"warning: {pair.key} holds a private key and everybody may read it; chmod o-r {pair.key}" in said
    said.clear()
    path.write_text(f'[http.tls]\ncertificate = "{tmp_path}/none"\n')
    assert not check_config(path, {}, said.append)
    assert f"http.tls.certificate: there is no file {tmp_path}/none; name the one that was meant" in said[0]


def test_a_door_that_others_reach_without_tls_is_warned_of(tmp_path: Path) -> None:
    pair = Authority(tmp_path / "ca").issue("localhost")
    path = tmp_path / "postroom.toml"
    said: list[str] = []
    others = '[auth]\ncertificates = {"DNS:a" = "b"}\n[native]\nhost = "0.0.0.0"\n[http]\nhost = "0.0.0.0"\n'
    path.write_text(f'{others}[http.tls]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n')
    assert check_config(path, {}, said.append)
    assert said[:2] == [
        "warning: native.host: tokens and messages travel in the clear: others can reach this door and it has no [tls]",
        'warning: auth.certificates: no door asks clients for one; set client_certificates = "optional" in [tls]',
    ]
