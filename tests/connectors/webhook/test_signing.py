import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.connectors.webhook.signing import format_secret, parse_secret, sign, verify
from broker.core.errors import BrokerError, Code

KEY = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
OTHER = b"o" * 32
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_vector_of_the_reference_libraries() -> None:
    assert sign([KEY], ID, AT, BODY) == SIGNATURE


@given(
    st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=4),
    st.text(min_size=1),
    st.integers(0, 10**11),
    st.binary(),
)
def test_what_is_signed_is_accepted_with_any_one_of_the_secrets(
    secrets: list[bytes], message_id: str, at: int, body: bytes
) -> None:
    message_id = message_id.encode("utf-8", "replace").decode()
    signature = sign(secrets, message_id, at, body)
    for secret in secrets:
        verify([OTHER, secret], message_id, str(at), signature, body, at)


def test_rotation_signs_with_old_and_new() -> None:
    both = sign([OTHER, KEY], ID, AT, BODY)
    assert both.split() == [sign([OTHER], ID, AT, BODY), SIGNATURE]
    verify([KEY], ID, str(AT), both, BODY, AT + 300)


@pytest.mark.parametrize(
    ("message_id", "timestamp", "signature", "body", "now", "says"),
    [
        (ID, str(AT), SIGNATURE, BODY + b" ", AT, "no entry"),
        ("msg_x", str(AT), SIGNATURE, BODY, AT, "no entry"),
        (ID, str(AT + 1), SIGNATURE, BODY, AT, "no entry"),
        (ID, str(AT), SIGNATURE, BODY, AT + 301, "300 s off"),
        (ID, str(AT), SIGNATURE, BODY, AT - 301, "300 s off"),
        (ID, str(AT), "", BODY, AT, "no entry"),
        (ID, str(AT), "v1", BODY, AT, "no entry"),
        (ID, str(AT), SIGNATURE.replace("v1,", "v1a,"), BODY, AT, "no entry"),
        (ID, str(AT), "v1,\udcff☃", BODY, AT, "no entry"),
        (ID, "", SIGNATURE, BODY, AT, "unix seconds"),
        (ID, "-5", SIGNATURE, BODY, AT, "unix seconds"),
        (ID, "٣" * 10, SIGNATURE, BODY, AT, "unix seconds"),
        (ID, "9" * 5000, SIGNATURE, BODY, AT, "unix seconds"),
    ],
)
def test_anything_else_is_refused(
    message_id: str, timestamp: str, signature: str, body: bytes, now: float, says: str
) -> None:
    with pytest.raises(BrokerError, match=says) as refusal:
        verify([KEY], message_id, timestamp, signature, body, now)
    assert refusal.value.code is Code.UNAUTHENTICATED


def test_a_true_entry_behind_others_counts() -> None:
    verify([KEY], ID, str(AT), f"v2,xx v1a,yy v1,zz {SIGNATURE}", BODY, AT)


@given(st.binary(min_size=24, max_size=64))
def test_secrets_survive_their_text(key: bytes) -> None:
    text = format_secret(key)
    assert text.startswith("whsec_")
    assert parse_secret(text) == parse_secret(text.rstrip("=")) == parse_secret(text.removeprefix("whsec_")) == key


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_***", "whsec_" + base64.b64encode(b"k" * 23).decode(), 7, None])
def test_what_is_no_secret(text: object) -> None:
    with pytest.raises(BrokerError) as refusal:
        parse_secret(text)
    assert refusal.value.code is Code.BAD_OPTION
    assert "***" not in refusal.value.text
