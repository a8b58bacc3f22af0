"""What an `Authorization` may say, and what becomes of everything else."""

from base64 import b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth.identity import Credentials
from broker.core.errors import BrokerError, Code
from broker.protocols.http.authorization import _credentials


def basic(text: bytes) -> str:
    return f"Basic {b64encode(text).decode()}"


@pytest.mark.parametrize(
    ("authorization", "credentials"),
    [
        ("Bearer pr_a_b", Credentials("pr_a_b")),
        ("bearer  pr_a_b ", Credentials("pr_a_b")),
        (basic(b"ann:correct horse"), Credentials(None, "ann", "correct horse")),
        (basic(b"ann:with:colons"), Credentials(None, "ann", "with:colons")),
        (basic("änn:pässwort".encode()), Credentials(None, "änn", "pässwort")),
        (basic(b"ann:pr_a_b"), Credentials("pr_a_b")),
        (basic(b":"), Credentials(None, "", "")),
    ],
)
def test_a_head_that_says_who_asks(authorization: str, credentials: Credentials) -> None:
    assert _credentials(authorization) == credentials


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!!",
        basic(b"no colon"),
        basic(b"\xff:\xff"),
        "Digest a=b",
        "pr_a_b",
        "Basic é",
    ],
)
def test_another_one_is_refused_in_words(authorization: str) -> None:
    with pytest.raises(BrokerError, match="Bearer TOKEN") as refusal:
        _credentials(authorization)
    assert refusal.value.code is Code.UNAUTHENTICATED


@given(st.one_of(st.text(), st.text().map("Basic ".__add__), st.binary().map(basic)))
def test_whatever_is_sent_is_credentials_or_refused(authorization: str) -> None:
    with suppress(BrokerError):
        assert isinstance(_credentials(authorization), Credentials)
