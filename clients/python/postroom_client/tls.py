"""TLS to the broker: whom the client trusts, what it shows of itself, and what its failures mean in words."""

import os
import ssl
from os import PathLike
from typing import Any

from postroom_client.address import Address
from postroom_client.errors import UNTRUSTED, ConnectionLost, PostroomError

Path = str | PathLike[str]
Trust = ssl.SSLContext | Path | None
Shown = Path | tuple[Path, Path] | None


def make_context(address: Address, tls: Trust, certificate: Shown) -> ssl.SSLContext | None:
    """The context for an address; None for one that is reached plainly.

    `tls` is a context, or a PEM file of authorities; None: the environment's POSTROOM_CA, else those that the system
    trusts. `certificate` is the client's own: a PEM file with its key, or (certificate, key). Raises ValueError when
    the url does not ask for TLS, OSError for files that cannot be used."""
    if not address.tls:
        if tls is not None or certificate is not None:
            raise ValueError(f"{address} is spoken to plainly; write postrooms:// for TLS")
        return None
    if isinstance(tls, ssl.SSLContext):
        context = tls
    else:
        authorities = tls or os.environ.get("POSTROOM_CA") or None
        context = ssl.create_default_context(cafile=authorities)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        chain, key = (certificate, None) if isinstance(certificate, str | PathLike) else certificate
        context.load_cert_chain(chain, key)
    return context


def failure(error: BaseException, address: Any) -> PostroomError | None:
    """What a failed handshake means; None when the error is none of TLS."""
    if not isinstance(error, ssl.SSLError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        mend = "give its authority by tls= or POSTROOM_CA, and a name that stands in its certificate"
        text = f"{address} shows a certificate that is not good: {error.verify_message}; {mend}"
        return PostroomError(UNTRUSTED, text)
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return PostroomError(UNTRUSTED, f"no TLS is spoken at {address}; write postroom:// if that is meant")
    return ConnectionLost(f"the handshake with {address} failed: {error}")
