"""Every bound in one place, all finite. Checked before memory is taken for what they bound. Floor 2."""

from pydantic import BaseModel, ConfigDict, Field

from broker.core.errors import BrokerError, Code


class Limits(BaseModel):
    """`[limits]` of the configuration; sizes in bytes.

    `max_uncommitted`: of units that wait for their commit, over all doors; beyond it those who have more than their
    part are slowed. `max_arriving`: of requests and frames that have not come to their end, and `max_unsent`: of what
    clients have not read, over all doors; beyond them the slowest are closed. `new_connections_…`: within a second.
    `retained_…`: of messages that MQTT retains, `…_per_principal` of those that one published last.
    `publish_…_per_second`: of one principal, 0 for no bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body: int = Field(1 << 20, ge=1, le=1 << 28)
    max_frame: int = Field(8 << 20, ge=1 << 16, le=1 << 29)
    max_hello_frame: int = Field(64 << 10, ge=1 << 10, le=1 << 20)
    max_uncommitted: int = Field(64 << 20, ge=1 << 20)
    max_uncommitted_per_connection: int = Field(4 << 20, ge=1 << 16)
    max_arriving: int = Field(128 << 20, ge=1 << 20)
    max_unsent: int = Field(256 << 20, ge=1 << 20)
    max_unsent_per_connection: int = Field(16 << 20, ge=1 << 16)
    max_connections: int = Field(20_000, ge=1)
    max_connections_per_address: int = Field(10_000, ge=1)
    max_connections_per_principal: int = Field(15_000, ge=1)
    new_connections_per_address: int = Field(10_000, ge=1)
    new_connections_per_principal: int = Field(15_000, ge=1)
    max_consumers_per_connection: int = Field(1_000, ge=1)
    max_batch: int = Field(10_000, ge=1)
    max_subscriptions: int = Field(100_000, ge=1)
    retained_messages: int = Field(100_000, ge=0)
    retained_bytes: int = Field(64 << 20, ge=0)
    retained_messages_per_principal: int = Field(75_000, ge=0)
    retained_bytes_per_principal: int = Field(48 << 20, ge=0)
    publish_messages_per_second: int = Field(0, ge=0)
    publish_bytes_per_second: int = Field(0, ge=0)

    def body_too_large(self, size: int) -> BrokerError:
        """The refusal of a body of `size` bytes."""
        text = f"it is {size} bytes, the limit is {self.max_body} bytes (limits.max_body)"
        return BrokerError(Code.MESSAGE_TOO_LARGE, text)
