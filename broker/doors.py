"""The doors before a protocol speaks at them: where they are, how many may come in, and what is encrypted.

Which server stands behind which door, the daemon says. Floor 6.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from broker.auth.identity import Identity
from broker.config import DOORS, Config
from broker.config.tls import IN_THE_CLEAR
from broker.core.errors import BrokerError, Code
from broker.net.activation import inherited_sockets
from broker.net.address import address_of, stays_here
from broker.net.admission import Admission, raise_file_limit
from broker.net.listener import ListenError, open_sockets
from broker.net.strain import Strain
from broker.net.tls import Tls, TlsError
from broker.net.tls import figures as tls_figures
from broker.observe.limited import Limited
from broker.observe.metrics import Figures, gauge

log = logging.getLogger(__name__)

ALPN = {"http": ("http/1.1",)}
"""What a door offers when a TLS client asks which protocol it speaks (RFC 7301)."""
SCHEMES = {"http": ("http://", "https://"), "native": ("", "postrooms://"), "mqtt": ("", "mqtts://")}
"""How an address is written in the clear and by TLS."""
CERTIFICATE_LOOK = 86_400.0
"""Seconds between two looks at when certificates end."""


class Doors:
    """See the module. `addresses` says after `open` where each door is reached, `refused` why certificates that the
    last reload brought are not in use. Raises ListenError for files of TLS
    that cannot be used."""

    def __init__(self, config: Config, limited: Limited) -> None:
        wanted = config.limits.max_connections
        self.admission = Admission(config.limits, limited, raise_file_limit(wanted))
        self.strain = Strain(self.admission, config.limits, limited)
        self.addresses: dict[str, list[str]] = {}
        self.refused: list[str] = []
        self._config = config
        self.tls = {door: tls for door in DOORS if (tls := self._tls_for(door)) is not None}
        if self.admission.room < wanted:
            room = self.admission.room
            log.info("the system's limit of open files allows fewer connections", extra={"connections": room})

    def _tls_for(self, door: str) -> Tls | None:
        options = self._config.tls_of(door)
        if options is None:
            return None
        try:
            return Tls(options, ALPN.get(door, ()))
        except TlsError as error:
            raise ListenError(f"{self._config.tls_setting(door, error.setting)}: {error}") from None

    def open(self, environ: Mapping[str, str], stack: AsyncExitStack) -> dict[str, list[socket.socket]]:
        """Listen everywhere before anyone is served, so that a taken port stops the start before a client is seen;
        `stack` closes. Raises ListenError, ActivationError."""
        inherited = inherited_sockets(environ, DOORS)
        sockets = {door: self._sockets(door, inherited.get(door, []), stack) for door in DOORS}
        self.addresses = {door: [self._reached(door, sock) for sock in found] for door, found in sockets.items()}
        return sockets

    def _sockets(self, door: str, inherited: list[socket.socket], stack: AsyncExitStack) -> list[socket.socket]:
        """Those that the service manager opened for this door, else our own."""
        options = getattr(self._config, door)
        host = options.host if getattr(options, "tcp", True) else None
        sockets = inherited or open_sockets(door, host, options.port, getattr(options, "unix", None))
        for sock in sockets:
            stack.callback(sock.close)
        for sock in sockets:
            if self._config.auth is None and not stays_here(sock):
                raise ListenError(
                    f"{door}: others could reach {address_of(sock)}, and there is no [auth]; write [auth] into the"
                    " configuration, or use loopback"
                )
            if door not in self.tls and not stays_here(sock):
                log.warning(IN_THE_CLEAR, extra={"door": door, "address": address_of(sock)})
        return sockets

    def _reached(self, door: str, sock: socket.socket) -> str:
        """Where clients find a door, as they write it."""
        address = address_of(sock)
        return address if sock.family == socket.AF_UNIX else SCHEMES[door][door in self.tls] + address

    def dismiss(self, identity: Identity) -> None:
        """An identity has ended: so do its connections, told why."""
        error = BrokerError(Code.UNAUTHENTICATED, identity.ended or "")
        count = self.admission.dismiss(lambda connection: connection.identity is identity, error)
        extra = {"principal": identity.principal.name, "how": identity.how, "connections": count}
        log.info("identity ended", extra=extra)

    # TLS

    async def watch_certificates(self) -> None:
        """Say in time, once a day, which ones end soon."""
        while self.tls:
            self._warn_of_ends()
            await asyncio.sleep(CERTIFICATE_LOOK)

    def _warn_of_ends(self) -> None:
        for warning in dict.fromkeys(tls.warning() for tls in self.tls.values()):
            if warning:
                log.warning("certificate: %s", warning)

    def take_up(self, new: Config) -> list[str]:
        """New handshakes see what the files hold now; with bad files those of before stay in use. Returns the settings
        that need a restart."""
        refused: list[str] = []
        for door, tls in self.tls.items():
            options = new.tls_of(door)
            try:
                if options is not None:
                    tls.take_up(options)
            except TlsError as error:
                text = f"{new.tls_setting(door, error.setting)}: {error}"
                log.error("certificate not taken up: the one before stays in use", extra={"door": door, "error": text})  # noqa: TRY400
                refused.append(text)
            else:
                log.info("certificate taken up", extra={"door": door, **tls.describe()})
        self.refused = list(dict.fromkeys(refused))
        self._warn_of_ends()
        return [f"{door}.tls" for door in DOORS if (new.tls_of(door) is not None) != (door in self.tls)]

    # To be seen

    def status(self) -> dict[str, Any]:
        """What `/v1/status` says of certificates."""
        return {door: tls.describe() for door, tls in self.tls.items()}

    def figures(self) -> list[Figures]:
        """What `/metrics` says of connections and certificates."""
        connections = {(door,): 0.0 for door in DOORS} | Counter((c.door,) for c in self.admission)
        return [
            gauge("connections", "Connections that are open, handshakes included", ("door",), connections),
            *tls_figures(self.tls),
        ]
