"""The rules for the targets of outgoing webhooks, without I/O. ``transport`` opens the connections.

A client that chooses a URL could make Homing send requests to hosts that only Homing can reach: this machine, its
network, a cloud's metadata service. So only targets on the public internet are allowed, unless the operator allows
others (HOMING_ALLOWED_TARGETS). Homing checks every address of a host name each time it connects, because a name can
get new addresses at any time.
"""

import ipaddress
import re
import socket
import unicodedata
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

ALLOWED_SETTING: Final = "HOMING_ALLOWED_TARGETS"
MAX_URL_LENGTH: Final = 2_048
# All unicast addresses of the public internet are here (RFC 4291, 2.4 and IANA's registry of address space).
GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# A translator turns these into the IPv4 address in their last 32 bits (RFC 6052).
TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Addresses in public ranges that the internet does not reach. Older Python versions report protocol and example
# addresses (RFC 6890, 7526, 9637) as public. Each Azure machine reaches its host at 168.63.129.16
# (https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16). The metadata addresses of other
# clouds are link-local, shared or private: 169.254.169.254, 100.100.100.200, 192.0.0.192, fd00:ec2::254.
NOT_PUBLIC: Final = (
    ipaddress.IPv4Network("168.63.129.16/32"),
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv6Network("3fff::/20"),
)
# Names without public answers (RFC 6761, 6762, 8375, ICANN's .internal), and usual names of internal hosts.
INWARD_NAMES: Final = ("localhost", "local", "internal", "home.arpa", "lan", "intranet", "corp", "home", "localdomain")
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?")
_UNWRITABLE: Final = re.compile(r"[\s\\\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The targets that the operator allows although they are not public, also without TLS."""

    networks: tuple[IPNetwork, ...] = ()
    hosts: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return ", ".join([*map(str, self.networks), *sorted(self.hosts)])

    def names(self, host: str) -> bool:
        """Return whether the operator allows a host by its name. Its addresses do not matter then."""
        return plain_host(host) in self.hosts

    def holds(self, address: IPAddress) -> bool:
        """Return whether an address is in an allowed network."""
        return any(address in network for network in self.networks)


PUBLIC_ONLY: Final = Allowed()


def read_allowed(entries: tuple[str, ...]) -> Allowed:
    """Read networks (``10.0.0.0/8``), addresses and host names. Raises ValueError that says what to write."""
    networks: list[IPNetwork] = []
    hosts: set[str] = set()
    for entry in entries:
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]")))
        except ValueError:
            host = plain_host(entry)
            if "/" in entry or not _HOST.fullmatch(host) or _numeric(host) is not None:
                raise ValueError(
                    "the value is not valid. Write networks such as 10.0.0.0/8, addresses or host names"
                ) from None
            hosts.add(host)
    return Allowed(networks=tuple(networks), hosts=frozenset(hosts))


def refusal(host: str, address: str, allowed: Allowed, *, encrypted: bool) -> str | None:
    """Return why Homing must not connect to a host at one of its addresses, or None if it may."""
    if allowed.names(host):
        return None
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return f"its address cannot be read. Allow the host by name in {ALLOWED_SETTING}"
    if allowed.holds(_unwrapped(found)):
        return None
    if not is_public(found):
        return f"it is not on the public internet. To allow it, add it to {ALLOWED_SETTING}"
    return None if encrypted else f"http is allowed only for hosts in {ALLOWED_SETTING}. Use https"


def is_public(address: IPAddress) -> bool:
    """Return whether an address and the addresses embedded in it are on the public internet."""
    if any(address in network for network in NOT_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    inner = _unwrapped(address)
    if isinstance(inner, ipaddress.IPv4Address):
        return is_public(inner)
    if address.teredo is not None or address not in GLOBAL_UNICAST or not address.is_global:
        return False
    return address.sixtofour is None or is_public(address.sixtofour)


def callback_refusal(url: str, allowed: Allowed) -> str | None:
    """Return what is wrong with a client's callback URL, or None.

    This checks only the text of the URL. Homing checks the addresses of its host when it connects.
    """
    try:
        parts = urlsplit(url)
        sound = _is_sound(url, parts)
    except ValueError:
        sound = False
    if not sound:
        return f"must be an http or https URL of at most {MAX_URL_LENGTH} characters"
    if parts.username is not None or parts.password is not None:
        return "must not contain a user name or a password"
    return inward(parts.hostname or "", allowed, encrypted=parts.scheme == "https")


def inward(host: str, allowed: Allowed, *, encrypted: bool) -> str | None:
    """Return why a written host is refused, or None if only its addresses can decide."""
    plain = plain_host(host)
    address = _numeric(plain)
    if allowed.names(plain) or (address is not None and allowed.holds(_unwrapped(address))):
        return None
    if address is None:
        wrong = _wrong_name(plain, allowed)
    else:
        wrong = None if is_public(address) else "must not point to a private address"
    decided_by_resolver = address is None and bool(allowed.networks)
    return wrong or (None if encrypted or decided_by_resolver else "must be an https URL")


def plain_host(host: str) -> str:
    """Return a host name as resolvers read it: lower case, compatible letters folded, no brackets, no root dot."""
    return unicodedata.normalize("NFKC", host).strip("[]").lower().rstrip(".")


def _is_sound(url: str, parts: SplitResult) -> bool:
    port_is_read = parts.port is None or parts.port > 0
    written = len(url) <= MAX_URL_LENGTH and url.isprintable() and _UNWRITABLE.search(url) is None
    return written and port_is_read and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _wrong_name(host: str, allowed: Allowed) -> str | None:
    if not _HOST.fullmatch(_ascii(host)):
        return "must contain a valid host name"
    inside = "." not in host or host.endswith(tuple("." + name for name in INWARD_NAMES))
    # If networks are allowed, such a name may resolve to an address in them.
    return "must not point to a host name of an internal network" if inside and not allowed.networks else None


def _numeric(host: str) -> IPAddress | None:
    """Read an address in any form that resolvers accept, also 127.1, 0x7f000001, 2130706433 and 0177.0.0.1."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _unwrapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address embedded in a mapped or translated IPv6 address, or else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in TRANSLATED else address


def _ascii(host: str) -> str:
    """Return a host name in ASCII (IDNA), or unchanged if it cannot be encoded."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host
