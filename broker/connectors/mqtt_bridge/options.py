"""`[[mqtt_bridge]]` of the configuration: another MQTT broker, what is sent there and what is fetched. Floor 4."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from broker.core.errors import BrokerError
from broker.core.retry import RetryPolicy
from broker.core.setting import Duration, Size
from broker.core.spec import check_name
from broker.core.topic import check_filter, check_topic, intersection

_PORTS = {"mqtt": 1883, "mqtts": 8883}
MAX_ADDRESSES = 10


@dataclass(frozen=True, slots=True)
class Address:
    """Where the other broker listens. `text` is the address as it was written."""

    text: str
    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`mqtt://host:1883` or `mqtts://host:8883`, where the port may be left out. Raises ValueError."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError(f"{text!r} is no address; write mqtts://host or mqtt://host:1883") from None
        if parts.scheme not in _PORTS or not parts.hostname or port == 0 or parts.path or parts.query or parts.fragment:
            raise ValueError(f"{text!r} is no address; write mqtts://host or mqtt://host:1883")
        if parts.username is not None or parts.password is not None:
            raise ValueError("an address holds no user or password; set user and password")
        return cls(text, parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "mqtts")


class BridgedTopics(BaseModel):
    """Topics that go `out`, come `in`, or both. `filter` is matched here with `local_prefix` in front of it and there
    with `remote_prefix`; one prefix is exchanged for the other. `qos` 1 is at least once, 0 at most once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filter: str
    direction: Literal["in", "out", "both"]
    qos: int = Field(1, ge=0)
    local_prefix: str = ""
    remote_prefix: str = ""

    @field_validator("qos")
    @classmethod
    def _qos(cls, value: int) -> int:
        if value > 1:
            raise ValueError("a bridge speaks QoS 0 or 1; with 1, between two Postrooms nothing is doubled either")
        return value

    @model_validator(mode="after")
    def _filters(self) -> "BridgedTopics":
        try:
            for prefix in (self.local_prefix, self.remote_prefix):
                if prefix:
                    check_topic(prefix)
            check_filter(self.local)
            check_filter(self.remote)
        except BrokerError as error:
            raise ValueError(error.text) from None
        if self.local.startswith("$") or self.remote.startswith("$share/"):
            raise ValueError("topics that begin with $ are the broker's own, and a bridge shares no subscription")
        return self

    @property
    def local(self) -> str:
        """The filter here."""
        return self.local_prefix + self.filter

    @property
    def remote(self) -> str:
        """The filter there."""
        return self.remote_prefix + self.filter

    @property
    def comes(self) -> bool:
        """Is it fetched?"""
        return self.direction != "out"

    @property
    def goes(self) -> bool:
        """Is it sent?"""
        return self.direction != "in"


class BridgeTls(BaseModel):
    """Of addresses that begin with `mqtts`. Without `ca` the authorities of the system are trusted; `certificate` and
    `key` are ours, for who asks clients for one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    key_password: str | None = None

    @model_validator(mode="after")
    def _pair(self) -> "BridgeTls":
        if self.key is not None and self.certificate is None:
            raise ValueError("certificate is missing; name the PEM file that belongs to key")
        return self


class BridgeOptions(BaseModel):
    """Durations are stored in ms. The first of `address` that can be reached is used. `client_id`: without it one is
    made and kept; the other broker keeps under it what waits for us, so it must be nobody else's. `inflight`: what is
    sent without an answer, and what the other broker may send so (MQTT 5). `rate` bounds what is sent, in messages per
    second; 0: no bound. `queued_messages` and `queued_bytes` bound what waits while the other broker is away, then the
    oldest goes; without them nothing does. `notifications`: a topic there that holds 1 while we are connected, else
    0, retained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    address: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_ADDRESSES)]
    topics: Annotated[tuple[BridgedTopics, ...], Field(min_length=1, max_length=100)]
    tls: BridgeTls = BridgeTls()
    user: str | None = Field(None, min_length=1, max_length=1024)
    password: str | None = Field(None, max_length=65_535)
    client_id: str | None = Field(None, min_length=1, max_length=1024)
    version: Literal["3.1.1", "5"] = "5"
    keep_alive: Annotated[Duration, Field(ge=1_000, le=3_600_000)] = 60_000
    inflight: int = Field(1_000, ge=1, le=65_535)
    rate: int = Field(0, ge=0, le=10_000_000)
    queued_messages: int | None = Field(None, ge=1)
    queued_bytes: Annotated[Size, Field(ge=1)] | None = None
    backoff: Annotated[Duration, Field(ge=10, le=3_600_000)] = 1_000
    backoff_cap: Annotated[Duration, Field(ge=10, le=86_400_000)] = 60_000
    notifications: str | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return check_name(value)
        except BrokerError as error:
            raise ValueError(error.detail) from None

    @field_validator("address", mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("address")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            Address.parse(text)
        return value

    @field_validator("notifications")
    @classmethod
    def _notifications(cls, value: str | None) -> str | None:
        try:
            return value if value is None else check_topic(value)
        except BrokerError as error:
            raise ValueError(error.text) from None

    @model_validator(mode="after")
    def _fits(self) -> "BridgeOptions":
        if self.password is not None and self.user is None:
            raise ValueError("user is missing; a password alone cannot be sent")
        if self.backoff_cap < self.backoff:
            raise ValueError("backoff_cap must not be less than backoff")
        if self.version != "5":
            self._check_echo()
        return self

    def _check_echo(self) -> None:
        """Before MQTT 5 a broker sends a client its own messages, and they have no properties to know them by."""
        for i, goes in enumerate(self.topics):
            for j, comes in enumerate(self.topics):
                if goes.goes and comes.comes and intersection(goes.remote, comes.remote) is not None:
                    where = f"topics[{i}]" if i == j else f"topics[{i}] and topics[{j}]"
                    raise ValueError(
                        f"{where}: with MQTT 3.1.1 what goes out would come back as another message; "
                        'set version = "5", or keep both directions apart by their remote prefixes'
                    )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """In the order in which they are tried."""
        return tuple(map(Address.parse, self.address))

    @property
    def reconnects(self) -> RetryPolicy:
        """When it is tried again."""
        return RetryPolicy(self.backoff, 2.0, self.backoff_cap, 0.5, 1 << 52)

    @property
    def keep_alive_seconds(self) -> int:
        """As the protocol says it."""
        return math.ceil(self.keep_alive / 1000)

    @property
    def queue(self) -> str:
        """The queue of what is to be sent, one of the broker's like any other: it can be looked at, paused, purged."""
        return f"bridge.{self.name}"
