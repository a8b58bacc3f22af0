from typing import Any

import pytest
from pydantic import ValidationError

from broker.connectors.webhook.options import WebhookOptions, parse_target
from broker.core.errors import BrokerError, Code

OPTIONS = WebhookOptions()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_defaults_come_from_the_operator() -> None:
    options = WebhookOptions.model_validate({"timeout": "3s", "max_in_flight": 2, "allow": ["127.0.0.0/8", "::1/128"]})
    target = parse_target({"url": "https://example.com/hook?k=1#f"}, options)
    assert (str(target.url), target.timeout, target.max_in_flight) == ("https://example.com/hook?k=1", 3_000, 2)
    assert target.secrets == ()
    assert target.host == "https://example.com"


def test_the_owner_sets_the_rest() -> None:
    sink = {
        "url": "http://[::1]:8080/",
        "secret": [SECRET, "whsec_" + "A" * 32],
        "headers": {"Authorization": "Bearer x"},
        "timeout": "500ms",
        "max_in_flight": 1,
    }
    target = parse_target(sink, OPTIONS)
    assert (len(target.secrets), target.timeout, target.max_in_flight) == (2, 500, 1)
    assert target.headers == {"Authorization": "Bearer x"}


@pytest.mark.parametrize(
    ("sink", "says"),
    [
        ({}, "webhook.url"),
        ({"url": 7}, "webhook.url"),
        ({"url": "ftp://example.com"}, "https://"),
        ({"url": "example.com/x"}, "https://"),
        ({"url": "https:///x"}, "webhook.url"),
        ({"url": "http://host:99999/"}, "webhook.url"),
        ({"url": "http://host:0/"}, "webhook.url"),
        ({"url": "http://[::1/"}, "webhook.url"),
        ({"url": "http://user:secret@example.com/"}, "Authorization header"),
        ({"url": "http://example.com/a b"}, "percent-encode"),
        ({"url": "http://example.com/\r\nX: y"}, "webhook.url"),
        ({"url": "http://example.com/" + "x" * 3000}, "2048"),
        ({"url": "http://example.com/", "secret": "short"}, "secret"),
        ({"url": "http://example.com/", "secret": [SECRET] * 11}, "10"),
        ({"url": "http://example.com/", "headers": ["a"]}, "webhook.headers"),
        ({"url": "http://example.com/", "headers": {"a b": "c"}}, "no header name"),
        ({"url": "http://example.com/", "headers": {"a": "b\r\nc: d"}}, "printable ASCII"),
        ({"url": "http://example.com/", "headers": {"Host": "b"}}, "set by the broker"),
        ({"url": "http://example.com/", "headers": {"Webhook-Signature": "b"}}, "set by the broker"),
        ({"url": "http://example.com/", "timeout": "1ms"}, "100ms to 5m"),
        ({"url": "http://example.com/", "timeout": "soon"}, "webhook.timeout"),
        ({"url": "http://example.com/", "max_in_flight": 0}, "max_in_flight"),
        ({"url": "http://example.com/", "max_in_flight": True}, "max_in_flight"),
        ({"url": "http://example.com/", "allow_private": True}, "no option webhook.allow_private"),
    ],
)
def test_a_bad_sink_says_which_key_and_what_fits(sink: dict[str, Any], says: str) -> None:
    with pytest.raises(BrokerError, match=says) as refusal:
        parse_target(sink, OPTIONS)
    assert refusal.value.code is Code.BAD_OPTION


@pytest.mark.parametrize(
    "values", [{"allow": ["everything"]}, {"allow": ["10.0.0.1/8"]}, {"timeout": "1h"}, {"max_in_flight": 0}, {"x": 1}]
)
def test_bad_options_of_the_operator(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WebhookOptions.model_validate(values)
