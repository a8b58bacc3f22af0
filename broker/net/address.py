"""Addresses: which ones stay on this machine, and how the ends of a socket are told to people. Floor 3."""

import asyncio
import ipaddress
import socket

UNIX = "unix"
"""The address of all clients of unix sockets."""


def is_loopback(host: str) -> bool:
    """Does a listener on this host take connections from this machine only? Names other than `localhost` count as
    reachable from outside: what they resolve to may change."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_here(address: str) -> bool:
    """Is this the address of a client on this machine?"""
    return address == UNIX or is_loopback(address)


def host_port(host: str, port: int) -> str:
    """`127.0.0.1:7600`, `[::1]:7600`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(sock: socket.socket) -> str:
    """Where a listening socket is reached: `127.0.0.1:7600` or `unix:/run/postroom/native`."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return host_port(host, port)


def peer_of(transport: asyncio.BaseTransport) -> tuple[str, int]:
    """Address and port of the client; `unix` and 0 on a unix socket, and for one that is gone already."""
    peer = transport.get_extra_info("peername")
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else (UNIX, 0)


def stays_here(sock: socket.socket) -> bool:
    """Is this listening socket one that only this machine reaches?"""
    return sock.family == socket.AF_UNIX or is_loopback(sock.getsockname()[0])
