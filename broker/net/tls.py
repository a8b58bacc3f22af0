"""TLS of a listener: which certificate it shows, whom it trusts, and what is wrong with the files in words.

A listener asks its `Tls` for the context at each handshake, so that files that were renewed are taken up without
touching a connection: a new context replaces the old one whole (OpenSSL can add to a store of authorities, never take
away), and files that do not fit leave the old one in use. Floor 3.
"""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker.core.setting import Duration
from broker.observe.metrics import Figures, counter, gauge

if TYPE_CHECKING:
    from cryptography import x509

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only. Those of 1.3 are all good."""
SOON = 14 * 86_400
"""Seconds before its end from which a certificate is warned of."""
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_DAY = 86_400


class TlsOptions(BaseModel):
    """`[tls]`, and `[native.tls]` and the like for what differs at one door.

    `certificate` is a PEM file with the certificate and those between it and its authority; `key` its private key,
    which may stand in the same file, and `key_password` opens it when it is encrypted. `client_ca`: the authorities of
    client certificates. `handshake_timeout` (ms): from the connection to the end of the handshake; a reload does not
    change it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    certificate: Path | None = None
    key: Path | None = None
    key_password: str | None = None
    client_ca: Path | None = None
    client_certificates: Literal["none", "optional", "required"] = "none"
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    handshake_timeout: Annotated[Duration, Field(ge=100, le=600_000)] = 10_000

    def over(self, default: "TlsOptions") -> "TlsOptions":
        """These where they were given, else those of `default`."""
        return default.model_copy(update=self.model_dump(exclude_unset=True))


class TlsError(Exception):
    """TLS cannot be spoken with these options. `setting` is the one to look at; the text names file and mend."""

    def __init__(self, setting: str, text: str) -> None:
        super().__init__(text)
        self.setting = setting


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a listener shows. `names` are its DNS names and addresses; `begins` and `ends` are unix seconds."""

    path: Path
    names: tuple[str, ...]
    begins: float
    ends: float

    def covers(self, host: str) -> bool:
        """Does this name stand in it? A `*` stands for one first label (RFC 6125 §6.4.3)."""
        names = {name.lower() for name in self.names}
        return host in names or f"*.{host.partition('.')[2]}" in names


class Tls:
    """What one door shakes hands with: the newest files that could be used. `alpn`: the protocols it offers (RFC 7301).

    `failures` counts handshakes that came to nothing, by reason. Raises TlsError, as `take_up` does.
    """

    def __init__(self, options: TlsOptions, alpn: Sequence[str] = (), wall: Callable[[], float] = time.time) -> None:
        self._alpn = alpn
        self._wall = wall
        self.failures: Counter[str] = Counter()
        self.take_up(options)

    def take_up(self, options: TlsOptions) -> None:
        """Shake hands with these options and with what their files hold now. Raises TlsError; then all stays as it
        was."""
        certificate, context = load_certificate(options, self._wall()), _context(options, self._alpn)
        self.options, self.certificate, self.context = options, certificate, context

    @property
    def timeout(self) -> float:
        """Seconds that a handshake may take."""
        return self.options.handshake_timeout / 1000

    def warning(self) -> str:
        """What an operator should do soon; empty when nothing."""
        left = self.certificate.ends - self._wall()
        if left > SOON:
            return ""
        days = round(left / _DAY)
        lasts = "ends within a day" if days < 1 else f"ends in {days} {'day' if days == 1 else 'days'}"
        when = lasts if left > 0 else "has ended"
        return f"{self.certificate.path} {when} ({_date(self.certificate.ends)}); renew it and reload"

    def describe(self) -> dict[str, Any]:
        """For the status."""
        return {
            "certificate": str(self.certificate.path),
            "names": list(self.certificate.names),
            "expires_at": _date(self.certificate.ends),
            "client_certificates": self.options.client_certificates,
            "failed_handshakes": dict(self.failures),
        }


def figures(doors: Mapping[str, Tls]) -> list[Figures]:
    """All doors in numbers, for metrics."""
    ends = {(door,): tls.certificate.ends for door, tls in doors.items()}
    failed = {(door, reason): count for door, tls in doors.items() for reason, count in tls.failures.items()}
    return [
        gauge("tls_certificate_expiry_timestamp_seconds", "When the certificate ends, in unix time", ("door",), ends),
        counter("tls_failed_handshakes", "Handshakes that came to nothing, by reason", ("door", "reason"), failed),
    ]


def load_certificate(options: TlsOptions, now: float) -> Certificate:
    """Read and check the certificate and its key. `now`: unix seconds. Raises TlsError."""
    from cryptography import x509  # 8 MiB that a daemon without TLS does not need

    if options.certificate is None:
        raise TlsError("certificate", "is missing; name a PEM file")
    path = options.certificate
    try:
        leaf = x509.load_pem_x509_certificates(_read("certificate", path))[0]
    except ValueError as error:
        raise TlsError("certificate", f"{path} holds no certificate in PEM form ({error})") from None
    begins, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if now < begins:
        raise TlsError("certificate", f"{path} is not valid before {_date(begins)}; look at this machine's clock")
    if now >= ends:
        raise TlsError("certificate", f"{path} has ended on {_date(ends)}; renew it")
    _check_key(options, path, leaf)
    return Certificate(path, _names(leaf), begins, ends)


def _check_key(options: TlsOptions, certificate: Path, leaf: "x509.Certificate") -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    path = options.key or certificate
    content = _read("key", path)
    if b"PRIVATE KEY-----" not in content:
        raise TlsError("key", f"{path} holds no private key in PEM form; name its file")
    password = options.key_password.encode() if options.key_password else None
    if password and b"ENCRYPTED" not in content:
        password = None  # an open key needs none; ssl does not mind either
    try:
        key = serialization.load_pem_private_key(content, password)
    except TypeError:
        raise TlsError("key_password", f"{path} is encrypted; set key_password") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        setting, text = ("key_password", "does not open") if password else ("key", f"cannot be read ({error}):")
        raise TlsError(setting, f"{text} {path}") from None
    if key.public_key() != leaf.public_key():
        raise TlsError("key", f"{path} is not the key of {certificate}; name the two that belong together")


def _names(leaf: "x509.Certificate") -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _context(options: TlsOptions, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[options.minimum_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    path = str(options.certificate)
    try:
        # A password is given always: without one OpenSSL would ask for it on the terminal.
        context.load_cert_chain(path, options.key and str(options.key), lambda: options.key_password or "")
    except (ssl.SSLError, OSError) as error:
        raise TlsError("certificate", f"{path} cannot be used with its key ({error})") from None
    if options.client_certificates != "none":
        _trust(context, options)
    return context


def _trust(context: ssl.SSLContext, options: TlsOptions) -> None:
    if options.client_ca is None:
        raise TlsError("client_ca", "is missing; name a PEM file with the authorities of client certificates")
    _read("client_ca", options.client_ca)
    try:
        context.load_verify_locations(str(options.client_ca))
    except ssl.SSLError:
        raise TlsError("client_ca", f"{options.client_ca} holds no certificate in PEM form") from None
    context.verify_mode = _VERIFY[options.client_certificates]


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TlsError(setting, f"there is no file {path}; name the one that was meant") from None
    except OSError as error:
        raise TlsError(setting, f"cannot read {path} ({error.strerror}); give this user the right to") from None


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def peer_names(transport: asyncio.BaseTransport) -> tuple[str, ...]:
    """The subject alternative names of the client's certificate, as OpenSSL writes them (`DNS:worker-1.example.com`,
    `URI:spiffe://example.com/worker`). Empty when it showed none; what is here was verified."""
    shown = transport.get_extra_info("peercert") or {}
    return tuple(f"{kind}:{name}" for kind, name in shown.get("subjectAltName", ()))
