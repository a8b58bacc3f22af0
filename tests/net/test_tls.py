"""Certificates, keys and authorities: taken up when they fit, told with the file and the mend when they don't."""

import time
from pathlib import Path
from typing import Any

import pytest

from broker.net.tls import Tls, TlsError, TlsOptions
from tests.authority import Authority, Pair

DAY = 86_400


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def options(pair: Pair, **more: Any) -> TlsOptions:
    return TlsOptions(certificate=pair.certificate, key=pair.key, **more)


def refused(given: TlsOptions) -> tuple[str, str]:
    with pytest.raises(TlsError) as caught:
        Tls(given)
    return caught.value.setting, str(caught.value)


def test_what_a_door_shows(authority: Authority) -> None:
    tls = Tls(options(authority.issue("broker.example.com", "*.mail.example.com", "10.0.0.1")))
    assert tls.certificate.names == ("broker.example.com", "*.mail.example.com", "10.0.0.1")
    assert tls.certificate.covers("broker.example.com")
    assert tls.certificate.covers("a.mail.example.com")
    assert not tls.certificate.covers("a.b.mail.example.com")
    assert not tls.certificate.covers("example.com")
    assert tls.warning() == ""


def test_certificate_and_key_in_one_file(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("localhost")
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    assert Tls(TlsOptions(certificate=both)).certificate.names == ("localhost",)
    setting, text = refused(TlsOptions(certificate=pair.certificate))
    assert setting == "key"
    assert "holds no private key in PEM form; name its file" in text


def test_an_encrypted_key(authority: Authority) -> None:
    pair = authority.issue("localhost", password="open")
    Tls(options(pair, key_password="open"))
    assert refused(options(pair)) == ("key_password", f"{pair.key} is encrypted; set key_password")
    assert refused(options(pair, key_password="wrong")) == ("key_password", f"does not open {pair.key}")


def test_a_key_of_another_certificate(authority: Authority) -> None:
    one, other = authority.issue("a", file="a"), authority.issue("b", file="b")
    mixed = refused(options(Pair(one.certificate, other.key)))
    assert mixed == (
        "key",
        f"{other.key} is not the key of {one.certificate}; name the two that belong together",
    )


def test_files_that_are_not_there_or_something_else(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("localhost")
    gone, text = tmp_path / "gone.pem", tmp_path / "text.pem"
    text.write_text("Dear Sir,")
    assert refused(options(Pair(gone, pair.key)))[1] == f"there is no file {gone}; name the one that was meant"
    assert refused(options(Pair(pair.certificate, gone)))[0] == "key"
    assert f"{text} holds no certificate in PEM form" in refused(options(Pair(text, pair.key)))[1]
    assert refused(options(Pair(pair.certificate, text)))[0] == "key"
    assert refused(options(Pair(tmp_path, pair.key)))[1].startswith(f"cannot read {tmp_path} (Is a directory)")
    for ca in (gone, text):
        assert refused(options(pair, client_ca=ca, client_certificates="required"))[0] == "client_ca"
    broken = tmp_path / "broken.key"
    broken.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert refused(options(Pair(pair.certificate, broken)))[0] == "key"


def test_the_time_of_a_certificate(authority: Authority) -> None:
    ended = refused(options(authority.issue("a", days=(-9, -1))))
    assert ended[0] == "certificate"
    assert "has ended on" in ended[1]
    assert "is not valid before" in refused(options(authority.issue("a", days=(1, 9))))[1]
    now = time.time()
    tls = Tls(options(authority.issue("a", days=(-1, 90))), wall=lambda: now)
    assert tls.warning() == ""
    now += 80 * DAY
    assert "ends in 10 days" in tls.warning()
    now += 9 * DAY
    assert "ends in 1 day (" in tls.warning()
    now += 0.9 * DAY
    assert "ends within a day (" in tls.warning()
    now += DAY
    assert "has ended" in tls.warning()


def test_new_files_are_taken_up_and_bad_ones_change_nothing(authority: Authority) -> None:
    pair = authority.issue("a")
    tls = Tls(options(pair))
    before = tls.context
    authority.issue("b")
    tls.take_up(tls.options)
    assert tls.certificate.names == ("b",)
    assert tls.context is not before
    kept = tls.context
    pair.certificate.write_text("")
    with pytest.raises(TlsError):
        tls.take_up(options(pair, client_certificates="required"))
    assert (tls.context, tls.certificate.names) == (kept, ("b",))
    assert tls.options.client_certificates == "none"
