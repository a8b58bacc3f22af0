"""What the operator sets for all webhooks (`[webhooks]`) and what a subscription's owner sets for one.

The owner's part is checked when the subscription is made, so that a wrong URL is refused at once and not found out by
its first message. Which addresses may be reached is the operator's alone. Floor 4.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from yarl import URL

from broker.connectors.webhook.signing import parse_secret
from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.setting import Duration, Size

MAX_TIMEOUT = 300_000
_MIN_TIMEOUT = 100
_MAX_SECRETS = 10
_MAX_HEADERS = 32
_KEYS = ("url", "secret", "headers", "timeout", "max_in_flight")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]{0,4094}[\x21-\x7e])?")
_OURS = re.compile(
    r"host|content-(?:length|type|encoding)|connection|keep-alive|transfer-encoding|te|trailer|upgrade|expect|user-agent"
    r"|accept-encoding|proxy-.*|webhook-.*|postroom-.*",
    re.IGNORECASE,
)


def _network(value: object) -> IPv4Network | IPv6Network:
    """One sentence for one mistake, where a union of both types would tell two."""
    try:
        return ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"{error}; write a network such as 10.1.0.0/16 or fd00::/8") from None


class WebhookOptions(BaseModel):
    """`[webhooks]` of the configuration. `allow`: networks (CIDR) open to webhooks beside the public internet, such as
    `127.0.0.0/8`. `timeout` (stored in ms) and `max_in_flight` hold where the subscription says nothing.
    `max_connections` bounds requests under way, all webhooks together; `max_response` the bytes read of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[Annotated[IPv4Network | IPv6Network, PlainValidator(_network)], ...] = ()
    timeout: Annotated[Duration, Field(ge=_MIN_TIMEOUT, le=MAX_TIMEOUT)] = 15_000
    max_in_flight: int = Field(8, ge=1, le=1_000)
    max_connections: int = Field(1_000, ge=1, le=60_000)
    max_response: Annotated[Size, Field(ge=0, le=1 << 20)] = 16 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """Where the messages of one subscription go. `timeout` in ms; no `secrets`: one is made and kept by the sender."""

    url: URL
    secrets: tuple[bytes, ...]
    headers: Mapping[str, str]
    timeout: int
    max_in_flight: int

    @property
    def host(self) -> str:
        """What logs and status may show: paths and queries of webhook URLs often are secrets."""
        return str(self.url.origin())


def parse_target(sink: Mapping[str, Any], options: WebhookOptions) -> Target:
    """Check a subscription's `webhook` map. Raises BrokerError(BAD_OPTION) naming the key and what fits."""
    for key in sink:
        if key not in _KEYS:
            raise BrokerError(Code.BAD_OPTION, f"no option webhook.{key}; there are {', '.join(_KEYS)}")
    timeout = sink.get("timeout")
    in_flight = sink.get("max_in_flight")
    return Target(
        url=_url(sink.get("url")),
        secrets=_secrets(sink.get("secret")),
        headers=_headers(sink.get("headers")),
        timeout=options.timeout if timeout is None else _timeout(timeout),
        max_in_flight=options.max_in_flight if in_flight is None else _in_flight(in_flight),
    )


def _url(value: object) -> URL:
    if type(value) is not str or len(value) > 2048:
        raise BrokerError(Code.BAD_OPTION, "webhook.url must be a URL of at most 2048 characters")
    try:
        url = URL(value)
        valid = url.explicit_port != 0
    except ValueError:
        raise BrokerError(Code.BAD_OPTION, "webhook.url is no URL; write https://host/path") from None
    if url.scheme not in ("http", "https") or not url.host or not valid:
        raise BrokerError(Code.BAD_OPTION, "webhook.url must begin with https:// or http:// and name a host")
    if url.user is not None or url.password is not None:
        raise BrokerError(Code.BAD_OPTION, "webhook.url must not hold a user or password; set an Authorization header")
    if any(c <= " " or c == "\x7f" for c in value):
        raise BrokerError(Code.BAD_OPTION, "webhook.url holds a space or control character; percent-encode it")
    return url.with_fragment(None)


def _secrets(value: object) -> tuple[bytes, ...]:
    texts = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if len(texts) > _MAX_SECRETS:
        raise BrokerError(Code.BAD_OPTION, f"webhook.secret: at most {_MAX_SECRETS} at once")
    return tuple(parse_secret(text) for text in texts)


def _headers(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > _MAX_HEADERS:
        raise BrokerError(Code.BAD_OPTION, f"webhook.headers must be a map of at most {_MAX_HEADERS} texts")
    for name, text in value.items():
        if type(name) is not str or not _TOKEN.fullmatch(name):
            raise BrokerError(Code.BAD_OPTION, f"webhook.headers: {name!r} is no header name")
        if _OURS.fullmatch(name):
            raise BrokerError(Code.BAD_OPTION, f"webhook.headers: {name} is set by the broker")
        if type(text) is not str or not _VALUE.fullmatch(text):
            raise BrokerError(
                Code.BAD_OPTION, f"webhook.headers: the value of {name} must be one line of printable ASCII"
            )
    return dict(value)


def _timeout(value: object) -> int:
    timeout = parse_duration(value, "webhook.timeout")
    if not _MIN_TIMEOUT <= timeout <= MAX_TIMEOUT:
        raise BrokerError(Code.BAD_OPTION, "webhook.timeout must be from 100ms to 5m")
    return timeout


def _in_flight(value: object) -> int:
    if type(value) is not int or not 1 <= value <= 1_000:
        raise BrokerError(Code.BAD_OPTION, "webhook.max_in_flight must be a whole number from 1 to 1000")
    return value
