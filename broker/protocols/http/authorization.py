"""Who a request is of: what its head `Authorization` says, or the certificate or place of its connection. Floor 4."""

from base64 import b64decode
from collections.abc import Mapping

from aiohttp import web

from broker.auth.doorkeeper import Doorkeeper
from broker.auth.identity import LOCALLY, Credentials, Identity, credentials_of
from broker.core.errors import BrokerError, Code
from broker.protocols.http.access import connection_of
from broker.protocols.http.connection import Connection

STREAM_PATH = "/v1/stream"
ACCESS_TOKEN = "access_token"  # noqa: S105
"""In the query of STREAM_PATH alone: neither EventSource nor a browser's WebSocket can send a header."""


class Authorization:
    """Finds out who a request is of, before anything else is done with it."""

    def __init__(self, doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper

    def stands(self, connection: Connection, headers: Mapping[str, str]) -> bool:
        """Is the connection's identity surely that of a request with this head? False: `check` knows."""
        if connection.greeted is LOCALLY:
            return True
        identity = connection.identity
        if identity is None or identity.ended is not None:
            return False
        return headers.get("Authorization") == connection.authorization

    def check(self, request: web.BaseRequest) -> Credentials | None:
        """Make the connection's identity that of the request. A password that is to be proven is returned. Raises
        UNAUTHENTICATED, FORBIDDEN."""
        connection = connection_of(request)
        if connection.greeted is LOCALLY:
            return None
        authorization = request.headers.get("Authorization")
        if authorization is None and request.rel_url.raw_path == STREAM_PATH and ACCESS_TOKEN in request.query:
            authorization = f"Bearer {request.query[ACCESS_TOKEN]}"
        identity = connection.identity
        if identity is not None and authorization == connection.authorization:
            identity.valid()
            return None
        credentials = None if authorization is None else _credentials(authorization)
        identity = self._doorkeeper.check(connection.greeted, credentials)
        if identity is None:
            return credentials
        connection.identify(identity, authorization)
        return None

    async def prove(self, request: web.BaseRequest, credentials: Credentials) -> None:
        """The same for a password. Raises UNAUTHENTICATED, RATE_LIMITED."""
        connection = connection_of(request)
        identity: Identity = await self._doorkeeper.prove(credentials, connection.address)
        connection.identify(identity.valid(), request.headers.get("Authorization"))


def _credentials(authorization: str) -> Credentials:
    """Of a head `Authorization` (RFC 6750, RFC 7617). Raises UNAUTHENTICATED."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return Credentials(token=value.strip())
    try:
        user, colon, password = b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:  # neither base64 nor UTF-8
        colon = ""
    if scheme.lower() != "basic" or not colon:
        raise BrokerError(Code.UNAUTHENTICATED, "write Authorization: Bearer TOKEN, or Basic with user and password")
    return credentials_of(user, password)
