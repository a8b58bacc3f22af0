"""Addresses: which ones stay on this machine, and how a listening socket is told to people. Floor 3."""

import ipaddress
import socket


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


def host_port(host: str, port: int) -> str:
    """`127.0.0.1:7600`, `[::1]:7600`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(sock: socket.socket) -> str:
    """Where a listening socket is reached: `127.0.0.1:7600` or `unix:/run/postroom/native`."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return host_port(host, port)


def stays_here(sock: socket.socket) -> bool:
    """Is this listening socket one that only this machine reaches?"""
    return sock.family == socket.AF_UNIX or is_loopback(sock.getsockname()[0])
