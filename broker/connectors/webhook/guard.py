"""Which addresses a webhook may reach, asked when a connection is made and so after every name was resolved.

A URL is written by whoever may create a subscription; without this guard the daemon would knock at the doors of its own
network for them (SSRF). The list is explicit because `ipaddress.is_global` passes some special ranges. What may be
reached nevertheless is the operator's word, by network. Floor 4.
"""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Network = IPv4Network | IPv6Network
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

_DENIED: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        # IPv4: this network, private, shared, loopback, link-local, protocol assignments, documentation, 6to4 relays,
        # benchmarks, multicast, reserved and broadcast
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4"),
        # IPv6: unspecified, loopback and v4-compatible, NAT64, discard, protocol assignments, documentation, 6to4,
        # segment routing, unique local, link-local, site-local, multicast
        *("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16"),
        *("3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)


class AddressRefusedError(OSError):
    """The guard's refusal; its text says how the operator allows the address."""


def is_allowed(address: str, allow: Sequence[Network]) -> bool:
    """May a webhook connect to this IP address? `allow` opens networks that are closed otherwise."""
    ip = _plain(address)
    if ip is None:
        return False
    if any(ip.version == network.version and ip in network for network in allow):
        return True
    return not any(ip.version == network.version and ip in network for network in _DENIED)


def _plain(address: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def guarded_sockets(allow: Sequence[Network]) -> Callable[[AddressInfo], socket.socket]:
    """A socket factory for aiohttp's connector: it makes a socket for an allowed address only."""

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_allowed(str(address[0]), allow):
            raise AddressRefusedError(
                f"{address[0]} is not open to webhooks; its network can be added to webhooks.allow in the configuration"
            )
        return socket.socket(family, kind, protocol)

    return make
