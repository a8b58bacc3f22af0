import pytest
from postroom_client.address import Address, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postroom://broker.lan:7601", Address("broker.lan", 7601)),
        ("postroom://broker.lan", Address("broker.lan", 7600)),
        ("postroom://[::1]:7600", Address("::1", 7600)),
        ("postrooms://broker.lan", Address("broker.lan", 7600, tls=True)),
        ("postroom://s%20ecret@host", Address("host", 7600, token="s ecret")),
        ("postroom+unix:///run/postroom/native.sock", Address(path="/run/postroom/native.sock")),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url", ["http://host", "postroom://", "postroom://host:port", "postroom+unix://host", "localhost:7600"]
)
def test_a_wrong_url_says_what_to_write(url: str) -> None:
    with pytest.raises(ValueError, match="write postroom"):
        parse_address(url)


def test_the_environment_is_asked_when_no_url_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_URL", "postroom://elsewhere:1")
    assert parse_address() == Address("elsewhere", 1)
    monkeypatch.delenv("POSTROOM_URL")
    assert parse_address() == Address("127.0.0.1", 7600)


def test_a_token_is_not_shown() -> None:
    assert str(parse_address("postroom://secret@[::1]:7600")) == "postroom://[::1]:7600"
    assert str(parse_address("postrooms://secret@host")) == "postrooms://host:7600"
