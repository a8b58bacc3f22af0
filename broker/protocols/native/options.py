"""`[native]` of the configuration. Floor 4."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.core.setting import Duration
from broker.net.tls import TlsOptions

DEFAULT_PORT = 7600


class NativeOptions(BaseModel):
    """Where the native protocol is spoken, and how long a silent client is believed in (durations: ms)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tcp: bool = True
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(DEFAULT_PORT, ge=0, le=65_535)
    unix: Path | None = None
    heartbeat: Annotated[Duration, Field(ge=1_000, le=3_600_000)] = 30_000
    hello_timeout: Annotated[Duration, Field(ge=100, le=600_000)] = 10_000
    tls: TlsOptions = TlsOptions()

    @model_validator(mode="after")
    def _listens(self) -> "NativeOptions":
        if not self.tcp and self.unix is None:
            raise ValueError("tcp = false needs a unix path, or nobody can connect")
        return self
