"""What can be set: the options of all modules, composed.

Each module owns its options; here they get their section names, and what is declared (queues, streams, retention) its
parsed form. Floor 5.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from broker.auth.options import AuthOptions
from broker.connectors.file.options import DropOptions
from broker.connectors.mqtt_bridge.options import BridgeOptions
from broker.connectors.webhook.options import WebhookOptions
from broker.core.retention import Policies
from broker.core.setting import Duration
from broker.core.spec import parse_spec
from broker.core.subscription import Kind, Spec
from broker.engine.sqlite.options import SqliteOptions
from broker.limits import Limits
from broker.net.tls import TlsOptions
from broker.observe.log import LogOptions
from broker.protocols.http.options import HttpOptions
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.native.options import NativeOptions

DEFAULT_DATA_DIR = "postroom-data"
DOORS = ("native", "http", "mqtt")
"""The sections of the doors."""


class EngineOptions(BaseModel):
    """`[engine.…]`: one table per engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sqlite: SqliteOptions = SqliteOptions()


class Config(BaseModel):
    """Everything that can be set. `grace` (ms): how long a stopping daemon waits for what is in hand. `auth`: its
    presence turns authentication on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Path(DEFAULT_DATA_DIR)
    grace: Duration = 10_000
    auth: AuthOptions | None = None
    tls: TlsOptions = TlsOptions()
    native: NativeOptions = NativeOptions()
    http: HttpOptions = HttpOptions()
    mqtt: MqttOptions = MqttOptions()
    limits: Limits = Limits()
    engine: EngineOptions = EngineOptions()
    log: LogOptions = LogOptions()
    webhooks: WebhookOptions = WebhookOptions()
    drop: tuple[DropOptions, ...] = ()
    mqtt_bridge: tuple[BridgeOptions, ...] = ()
    queues: dict[str, dict[str, Any]] = {}
    streams: dict[str, dict[str, Any]] = {}
    topics: dict[str, dict[str, Any]] = {}

    _source: Path | None = PrivateAttr(None)
    _secrets: frozenset[str] = PrivateAttr(frozenset())

    @property
    def source(self) -> Path | None:
        """The file it was read from."""
        return self._source

    @property
    def secrets(self) -> frozenset[str]:
        """What logs must not show."""
        return self._secrets

    def read_from(self, source: Path | None, secrets: frozenset[str]) -> "Config":
        """Remember the origin; returns itself."""
        self._source, self._secrets = source, secrets
        return self

    def declared(self) -> list[tuple[Kind, str, dict[str, Any]]]:
        """The subscriptions of the file as they stand there: kind, name, options."""
        queues = [(Kind.QUEUE, name, given) for name, given in self.queues.items()]
        return queues + [(Kind.STREAM, name, given) for name, given in self.streams.items()]

    def specs(self) -> list[Spec]:
        """The same, parsed."""
        return [declared_spec(*entry) for entry in self.declared()]

    def host_of(self, door: str) -> str:
        """Where a door listens by TCP; for one that does not, this machine."""
        options = getattr(self, door)
        return str(options.host) if getattr(options, "tcp", True) else "localhost"

    def tls_of(self, door: str) -> TlsOptions | None:
        """What a door speaks TLS with: its own options over those of `[tls]`; None when it speaks plainly."""
        options: TlsOptions = getattr(self, door).tls.over(self.tls)
        return options if options.enabled and options.certificate is not None else None

    def tls_setting(self, door: str, setting: str) -> str:
        """Where a setting of a door's TLS stands: `native.tls.key` or `tls.key`."""
        own = getattr(self, door).tls.model_fields_set
        above = self.tls.model_fields_set
        return f"{door}.tls.{setting}" if setting in own or (own and setting not in above) else f"tls.{setting}"

    def policies(self) -> Policies:
        """The declared retention, by topic filter."""
        return Policies.parse(self.topics)


def declared_spec(kind: Kind, name: str, given: dict[str, Any]) -> Spec:
    """One declared subscription. Raises BAD_OPTION, BAD_FILTER."""
    return parse_spec(name, {**given, "kind": kind.value})
