"""Where the broker is: `postroom://host:7600`, `postrooms://host:7600` by TLS, `postroom+unix:///path`, or what
POSTROOM_URL says."""

import os
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

DEFAULT = "postroom://127.0.0.1:7600"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed url: a `path` of a unix socket, or `host` and `port`, by TLS or not. `token` may stand before an `@`."""

    host: str = ""
    port: int = 0
    path: str = ""
    token: str | None = None
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "postrooms" if self.tls else "postroom"
        return f"postroom+unix://{self.path}" if self.path else f"{scheme}://{host}:{self.port}"


def parse_address(url: str | None = None) -> Address:
    """Read a url; None means the environment's POSTROOM_URL, else 127.0.0.1:7600. Raises ValueError with the mend."""
    text = url or os.environ.get("POSTROOM_URL") or DEFAULT
    parts = urlsplit(text)
    if parts.scheme == "postroom+unix":
        if not parts.path.startswith("/"):
            raise ValueError(f"{text!r} names no socket; write postroom+unix:///run/postroom/native.sock")
        return Address(path=unquote(parts.path), token=_token(parts.username))
    if parts.scheme not in ("postroom", "postrooms") or not parts.hostname:
        choices = "postroom://host:7600, postrooms://host:7600 or postroom+unix:///path"
        raise ValueError(f"{text!r} is no broker's url; write {choices}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{text!r} has no valid port; write postroom://host:7600") from None
    tls = parts.scheme == "postrooms"
    return Address(parts.hostname, 7600 if port is None else port, token=_token(parts.username), tls=tls)


def _token(user: str | None) -> str | None:
    return unquote(user) if user else None
