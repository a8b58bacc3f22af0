"""Listening sockets: opened, bound and described before any protocol sees them.

It decides how a port, a unix path or a socket handed over by the service manager becomes a listening socket, and says
in words what to change when that fails. It leaves to the protocols what is spoken there. Floor 3.
"""

import errno
import socket
import stat
from pathlib import Path

from broker.net.address import host_port

BACKLOG = 1024
MAX_UNIX_PATH = 107
UNIX_MODE = 0o660


class ListenError(Exception):
    """A listener cannot be opened; the text names the door, the address and the mend."""


def open_sockets(door: str, host: str | None, port: int, unix: Path | None = None) -> list[socket.socket]:
    """Listen on every address of `host` (None: no TCP; port 0: a free one) and on the unix path.

    All or nothing. Raises ListenError.
    """
    opened: list[socket.socket] = []
    try:
        for family, address in _resolve(door, host, port) if host is not None else ():
            # A free port is drawn once; the other addresses of the name get the same.
            chosen = opened[0].getsockname()[1] if opened and port == 0 else port
            opened.append(_listen_tcp(door, family, (address, chosen)))
        if unix is not None:
            opened.append(listen_unix(door, unix))
    except ListenError:
        for sock in opened:
            sock.close()
        raise
    return opened


def _resolve(door: str, host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"{door}: {host!r} is no address of this machine ({error}); set host in [{door}]") from None
    return list(dict.fromkeys((socket.AddressFamily(family), str(address[0])) for family, _, _, _, address in found))


def _listen_tcp(door: str, family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(f"{door}: cannot listen on {host_port(*address)}: {_mend(door, error)}") from None
    return sock


def _mend(door: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the port is taken; stop who has it, or set another port in [{door}] (0 takes a free one)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no such address; set host in [{door}]"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"not permitted; set a port of at least 1024 in [{door}]"
    return error.strerror or str(error)


def listen_unix(door: str, path: Path) -> socket.socket:
    """Listen on a unix path (mode 0660); a socket that a dead process left behind is replaced. Raises ListenError."""
    if len(str(path).encode()) > MAX_UNIX_PATH:
        raise ListenError(f"{door}: {path} is longer than {MAX_UNIX_PATH} bytes; set a shorter unix in [{door}]")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(door, path)
        sock.setblocking(False)
        sock.bind(str(path))
        path.chmod(UNIX_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(f"{door}: cannot listen on {path}: {error.strerror}; set unix in [{door}]") from None
    except ListenError:
        sock.close()
        raise
    return sock


def _clear(door: str, path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{door}: {path} exists and is no socket; move it away, or set another unix in [{door}]")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise ListenError(f"{door}: another process listens on {path}; stop it, or set another unix in [{door}]")
    path.unlink()
