import socket
from ipaddress import ip_network

import pytest

from broker.connectors.webhook.guard import AddressRefusedError, guarded_sockets, is_allowed

CLOSED = """
0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1
192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.7 203.0.113.9 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1
::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 2001:db8::1
2002:7f00:1:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 localhost 0x7f000001
2130706433
"""


@pytest.mark.parametrize(
    "address",
    CLOSED.split(),
)
def test_what_is_not_public_is_closed(address: str) -> None:
    assert not is_allowed(address, ())


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_the_public_internet_is_open(address: str) -> None:
    assert is_allowed(address, ())


def test_the_operator_opens_networks_and_no_more() -> None:
    allow = [ip_network("127.0.0.0/8"), ip_network("fd00::/8")]
    assert is_allowed("127.0.0.1", allow)
    assert is_allowed("::ffff:127.0.0.1", allow)
    assert is_allowed("fd12::1", allow)
    assert not is_allowed("10.0.0.1", allow)
    assert not is_allowed("::1", allow)


def test_sockets_are_made_for_allowed_addresses_only() -> None:
    make = guarded_sockets([ip_network("127.0.0.0/8")])
    with make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))) as made:
        assert made.family == socket.AF_INET
    with pytest.raises(AddressRefusedError, match=r"10\.0\.0\.1 is not open to webhooks.*webhooks\.allow"):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80)))
