"""The context that a client makes of its options; what it says of failures is tried in tests/system."""

import ssl
from pathlib import Path

import pytest
from postroom_client import connect
from postroom_client.address import parse_address
from postroom_client.tls import make_context

from tests.authority import Authority

BY_TLS = parse_address("postrooms://broker.lan")


def test_authorities_of_the_caller_the_environment_or_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POSTROOM_CA", raising=False)
    authority = Authority(tmp_path)
    given = make_context(BY_TLS, authority.path, None)
    assert given is not None
    assert (given.verify_mode, given.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(given.get_ca_certs()) == 1
    monkeypatch.setenv("POSTROOM_CA", str(authority.path))
    asked = make_context(BY_TLS, None, None)
    assert asked is not None
    assert asked.get_ca_certs() == given.get_ca_certs()
    own = ssl.create_default_context()
    assert make_context(BY_TLS, own, None) is own


def test_files_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_context(BY_TLS, tmp_path / "none", None)
    pair = Authority(tmp_path).issue("client")
    with pytest.raises(ssl.SSLError):
        make_context(BY_TLS, pair.certificate, (pair.certificate, pair.certificate))


def test_options_of_tls_need_an_address_by_tls(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"postroom://broker.lan:7600 is spoken to plainly; write postrooms://"):
        connect("postroom://broker.lan", tls=str(tmp_path))
    assert make_context(parse_address("postroom://broker.lan"), None, None) is None
