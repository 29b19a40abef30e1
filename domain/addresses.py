"""Which network addresses are public: everybody's, and so nothing that an operator keeps to himself is behind them."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's registries of special-purpose addresses, multicast and what is reserved; and the one public address that Azure
# serves its machines' own metadata from.
_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
# All that IANA has given out is in here. What carries an IPv4 address (mapped, NAT64), unique local, link-local and
# multicast addresses are not.
_GLOBAL_6: Final = IPv6Network("2000::/3")
# Within it: protocol assignments with Teredo, documentation, 6to4.
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)


def is_public(address: Address) -> bool:
    """Return whether this is an address of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address.scope_id is None and address in _GLOBAL_6 and not any(address in net for net in _NOT_PUBLIC_6)


def may_be_called(address: Address, allowed: Iterable[Network]) -> bool:
    """Return whether a webhook may go there: a public address, or one of a network that the operator has allowed."""
    return is_public(address) or any(address in network for network in allowed)
