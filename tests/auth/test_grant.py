"""What grants say: read, written, and whom they cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth.grant import EVERYTHING, Grant, Verb, on_key, on_subscription, on_topic, parse_grant
from broker.auth.principal import BROKER, LOCAL, NOBODY, Principal, authorize, check_principal_name
from broker.core.errors import BrokerError, Code
from tests.core.test_topic import FILTERS

NAMES = st.text("abc.-_", min_size=1, max_size=4)


@pytest.mark.parametrize(
    "text",
    [
        "publish orders/#",
        "consume +/created",
        "consume subscription:mailer",
        "manage subscription:billing-*",
        "manage subscription:*",
        "consume key:app/*",
        "consume $dead/mailer",
        "consume topic:subscription:x/#",
        "manage orders/#",
        "admin",
    ],
)
def test_a_grant_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_grant(text)) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.BAD_OPTION),
        ("read orders/#", Code.BAD_OPTION),
        ("publish", Code.BAD_FILTER),
        ("publish a#", Code.BAD_FILTER),
        ("publish subscription:mailer", Code.BAD_OPTION),
        ("publish key:a", Code.BAD_OPTION),
        ("consume subscription:", Code.BAD_OPTION),
        ("consume subscription:a*b", Code.BAD_OPTION),
        ("consume subscription:.*|x", Code.BAD_OPTION),
        ("manage key:", Code.BAD_OPTION),
        ("manage key:a\nb", Code.BAD_OPTION),
        ("admin orders/#", Code.BAD_OPTION),
        (None, Code.BAD_OPTION),
        (7, Code.BAD_OPTION),
    ],
)
def test_what_is_no_grant_is_refused_in_words(text: object, code: Code) -> None:
    with pytest.raises(BrokerError) as refusal:
        parse_grant(text)
    assert refusal.value.code is code
    assert refusal.value.detail


def may(grants: str, verb: Verb, resource: object) -> bool:
    return authorize(Principal("x", tuple(map(parse_grant, grants.split(", ")))), verb, resource)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grants", "verb", "resource", "expected"),
    [
        ("publish orders/#", Verb.PUBLISH, on_topic("orders/created"), True),
        ("publish orders/#", Verb.CONSUME, on_topic("orders/created"), False),
        ("publish orders/#", Verb.PUBLISH, on_topic("prices"), False),
        ("consume orders/+", Verb.CONSUME, on_topic("orders/#"), False),
        ("consume orders/#", Verb.CONSUME, on_topic("orders/+"), True),
        ("consume #", Verb.CONSUME, on_topic("$dead/mailer"), False),
        ("consume #", Verb.CONSUME, on_topic("$sys/status"), False),
        ("consume $dead/#", Verb.CONSUME, on_topic("$dead/mailer"), True),
        ("consume #", Verb.CONSUME, on_subscription("mailer"), False),
        ("consume subscription:*", Verb.CONSUME, on_topic("mailer"), False),
        ("consume subscription:mail*", Verb.CONSUME, on_subscription("mailer"), True),
        ("consume subscription:mail", Verb.CONSUME, on_subscription("mailer"), False),
        ("consume subscription:*", Verb.CONSUME, on_key("mailer"), False),
        ("manage subscription:*", Verb.CONSUME, on_subscription("mailer"), False),
        ("manage key:app/*", Verb.MANAGE, on_key("app/1"), True),
        ("manage key:app/*", Verb.MANAGE, on_key("apple"), False),
        ("publish a, publish b", Verb.PUBLISH, on_topic("b"), True),
        ("consume topic:subscription:mailer", Verb.CONSUME, on_topic("subscription:mailer"), True),
        ("consume subscription:mailer", Verb.CONSUME, on_topic("subscription:mailer"), False),
        ("publish #, consume #, manage #", Verb.ADMIN, on_topic("#"), False),
    ],
)
def test_what_grants_cover(grants: str, verb: Verb, resource: object, expected: bool) -> None:
    assert may(grants, verb, resource) is expected


@given(st.sampled_from(Verb), st.one_of(FILTERS.map(on_topic), NAMES.map(on_subscription), NAMES.map(on_key)))
def test_admin_may_everything_and_nobody_nothing(verb: Verb, resource: object) -> None:
    assert may("admin", verb, resource)
    assert authorize(LOCAL, verb, resource)  # type: ignore[arg-type]
    assert authorize(BROKER, verb, resource)  # type: ignore[arg-type]
    assert not authorize(NOBODY, verb, resource)  # type: ignore[arg-type]


@given(FILTERS, FILTERS)
def test_nothing_of_the_brokers_own_by_a_wildcard(granted: str, wanted: str) -> None:
    if wanted.startswith("$") and Grant(Verb.CONSUME, on_topic(granted)).allows(Verb.CONSUME, on_topic(wanted)):
        assert granted.startswith("$")


def test_admin_is_one_grant() -> None:
    assert parse_grant(" admin ") is EVERYTHING


@pytest.mark.parametrize("name", ["", "local", "nobody", "$broker", "a b", "-a", "a/b", "é", None, "x" * 129])
def test_names_that_no_principal_may_have(name: object) -> None:
    with pytest.raises(BrokerError) as refusal:
        check_principal_name(name)
    assert refusal.value.code is Code.BAD_OPTION
