"""Sockets that the service manager opened for us (sd_listen_fds(3)): they outlive a restart, so that a client that
connects meanwhile waits instead of being refused.

A socket belongs to the door that its name (`FileDescriptorName=` of the socket unit) says: `native`, `http`, `mqtt`.
Floor 3.
"""

import os
import socket
from collections import defaultdict
from collections.abc import Mapping

FIRST = 3


class ActivationError(Exception):
    """What the manager handed over does not fit; the text says what to change in the unit."""


def inherited_sockets(
    environ: Mapping[str, str], doors: tuple[str, ...], first: int = FIRST
) -> dict[str, list[socket.socket]]:
    """Door → its listening sockets; empty when none were handed to this process.

    Raises ActivationError for a name that is no door's and for a socket that is not a listening stream.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = defaultdict(list)
    for i in range(int(count)):
        name = names[i] if i < len(names) else ""
        if name not in doors:
            wanted = " or ".join(f"FileDescriptorName={door}" for door in doors)
            raise ActivationError(f"socket {i + 1} of the service manager is named {name!r}; write {wanted}")
        found[name].append(_adopt(first + i, name))
    return dict(found)


def _adopt(fd: int, name: str) -> socket.socket:
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        sock.detach()
        raise ActivationError(f"the socket for {name} is no listening stream; write ListenStream= and Accept=no")
    return sock
