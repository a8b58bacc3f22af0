"""`[auth]` of the configuration. Its presence, even empty, turns authentication on. Floor 2."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from broker.auth.principal import check_principal_name
from broker.core.errors import BrokerError


class AuthOptions(BaseModel):
    """`certificates`: name in a client's certificate, `URI:…` or `DNS:…` -> principal. `failed_passwords`: how many
    attempts may fail per minute, for each address; ten times as many for each name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificates: dict[str, str] = {}
    failed_passwords: int = Field(10, ge=1, le=10_000)

    @field_validator("certificates")
    @classmethod
    def _check_certificates(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.startswith(("URI:", "DNS:")):
                raise ValueError(f"{name!r}: write URI:spiffe://example.com/worker or DNS:worker.example.com")
        try:
            return {san(name): check_principal_name(principal) for name, principal in value.items()}
        except BrokerError as error:
            raise ValueError(error.detail) from None


def san(name: str) -> str:
    """A subject alternative name in the form in which it is compared: DNS knows no upper case."""
    return name if not name.startswith("DNS:") else "DNS:" + name[4:].lower()
