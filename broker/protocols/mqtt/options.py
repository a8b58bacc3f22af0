"""`[mqtt]` of the configuration. Floor 4."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.core.setting import Duration, Size
from broker.net.tls import TlsOptions

DEFAULT_PORT = 1883
DAY = 86_400_000


class MqttOptions(BaseModel):
    """Where MQTT is spoken, and how much each client may ask of us (durations: ms, sizes: bytes).

    `receive_maximum`: what a client of MQTT 5 may have unanswered; `inflight`: what we send a client without an answer,
    if it takes so many, `queue_inflight` the same of one queue by its name. `websocket`: MQTT is spoken at `/mqtt` of
    the HTTP door, too. `queued_…`: what waits for one session that is away; then the oldest goes. `refused_filters`:
    what nobody may subscribe to, as it is written, such as `#`. `…_per_principal`: of all that one principal has
    together. `slow_after`: a client is slow whose socket was full for so long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tcp: bool = True
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(DEFAULT_PORT, ge=0, le=65_535)
    unix: Path | None = None
    websocket: bool = True
    connect_timeout: Annotated[Duration, Field(ge=100, le=600_000)] = 10_000
    max_keep_alive: Annotated[Duration, Field(ge=1_000, le=3_600_000)] = 3_600_000
    max_session_expiry: Annotated[Duration, Field(ge=1_000, le=365 * DAY)] = 30 * DAY
    receive_maximum: int = Field(8_192, ge=1, le=65_535)
    inflight: int = Field(16_384, ge=1, le=65_535)
    queue_inflight: int = Field(20, ge=1, le=65_535)
    topic_alias_maximum: int = Field(16, ge=0, le=65_535)
    max_filters: int = Field(1_000, ge=1, le=100_000)
    refused_filters: frozenset[str] = frozenset()
    max_sessions: int = Field(100_000, ge=1)
    sessions_per_principal: int = Field(75_000, ge=1)
    queued_messages: int = Field(100_000, ge=1)
    queued_bytes: Size = Field(1 << 28, ge=1)
    queued_bytes_per_principal: Size = Field(6 << 30, ge=1)
    queued_bytes_in_all: Size = Field(8 << 30, ge=1)
    slow_after: Annotated[Duration, Field(ge=100, le=3_600_000)] = 30_000
    slow_clients: Literal["park", "disconnect"] = "park"
    tls: TlsOptions = TlsOptions()

    @model_validator(mode="after")
    def _listens(self) -> "MqttOptions":
        if not self.tcp and self.unix is None:
            raise ValueError("tcp = false needs a unix path, or nobody can connect")
        return self
