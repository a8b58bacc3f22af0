"""`[http]` of the configuration. Floor 4."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from broker.core.setting import Duration, Size
from broker.net.tls import TlsOptions
from broker.protocols.http.cors import Origin

DEFAULT_PORT = 7680


class HttpOptions(BaseModel):
    """Where HTTP is spoken and how long a client may take (durations: ms).

    `hosts`: names, beside IP addresses and `localhost`, under which browsers and proxies reach this door.
    `origins`: pages of other origins that may use it.
    `request_timeout`: from the connection (or the first byte of a later request) to the whole request.
    `keepalive`: how long a connection may idle between requests. `write_timeout`: how long a client may refuse to read.
    `slow_after`: how far a stream's reader with `slow=drop` may fall behind.
    `answer_timeout`: how long a commit may take. `max_wait`: the longest poll of a queue. `heartbeat`: of streams.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(DEFAULT_PORT, ge=0, le=65_535)
    hosts: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    request_timeout: Annotated[Duration, Field(ge=100, le=3_600_000)] = 30_000
    keepalive: Annotated[Duration, Field(ge=100, le=3_600_000)] = 75_000
    write_timeout: Annotated[Duration, Field(ge=100, le=3_600_000)] = 30_000
    slow_after: Annotated[Duration, Field(ge=100, le=3_600_000)] = 10_000
    answer_timeout: Annotated[Duration, Field(ge=100, le=3_600_000)] = 30_000
    max_wait: Annotated[Duration, Field(ge=0, le=3_600_000)] = 60_000
    heartbeat: Annotated[Duration, Field(ge=100, le=3_600_000)] = 15_000
    max_line: Annotated[Size, Field(ge=1024, le=1 << 20)] = 16 << 10
    max_header: Annotated[Size, Field(ge=1024, le=1 << 20)] = 64 << 10
    max_headers: int = Field(128, ge=16, le=1_000)
    tls: TlsOptions = TlsOptions()
