"""Which addresses are public: one case for each class that is not, and its edges."""

from ipaddress import ip_address, ip_network

import pytest

from domain.addresses import is_public, may_be_called

NOT_PUBLIC = {
    "unspecified": ["0.0.0.1", "0.255.255.255", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1"],
    "shared": ["100.64.0.1", "100.127.255.255"],
    "link-local": ["169.254.1.1", "fe80::1", "fe80::1%eth0"],
    "site-local": ["fec0::1"],
    "metadata": ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1", "100::1", "5f00::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarking": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "protocol": ["192.0.0.1", "2001::1", "2001:1ff:ffff::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::ffff:0:10.0.0.1"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "192.88.99.1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:3fff:fdd2"],
}
CASES = [(kind, address) for kind, addresses in NOT_PUBLIC.items() for address in addresses]


@pytest.mark.parametrize(("kind", "address"), CASES)
def test_an_address_of_this_class_is_not_public(kind: str, address: str) -> None:
    """False, and it may be called only where its own network is allowed."""
    assert not is_public(ip_address(address)), kind
    assert not may_be_called(ip_address(address), [ip_network("8.8.8.0/24")])


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "2001:200::1",
        "2003::1",
    ],
)
def test_an_address_of_everybody_is_public(address: str) -> None:
    """True, without any setting."""
    assert is_public(ip_address(address))


def test_an_allowed_network_may_be_called() -> None:
    """That network and no other; an IPv4 network allows nothing that carries its addresses in IPv6."""
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00::/64")]
    assert may_be_called(ip_address("10.1.2.3"), allowed)
    assert may_be_called(ip_address("fd00::5"), allowed)
    assert not may_be_called(ip_address("10.2.0.1"), allowed)
    assert not may_be_called(ip_address("::ffff:10.1.2.3"), allowed)
