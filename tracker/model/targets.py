"""Where outgoing webhooks may go: decided from addresses, as values. The dialing itself is in ``transport``.

Whoever may name an address for us to post to could make us speak to what only we can reach: this machine, its
neighbours, a cloud's metadata. So nothing but the public internet is allowed, unless the operator says otherwise
(HOMING_ALLOWED_TARGETS). A name is decided on when it is dialed, by every address that it then has: what it had
before proves nothing.
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

ALLOW: Final = "HOMING_ALLOWED_TARGETS"
LONGEST: Final = 2_048
# All unicast addresses of the public internet are here (RFC 4291, 2.4 and IANA's registry of address space).
GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# A translator turns these into the IPv4 address in their last 32 bits (RFC 6052).
TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Public by their number, and yet not reached over the internet: protocols' own addresses and those of examples, which
# older Pythons take for public (RFC 6890, 7526, 9637), and the address at which each machine of Azure reaches its host
# (https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16). What other clouds use is
# link-local, shared or private: 169.254.169.254, 100.100.100.200, 192.0.0.192, fd00:ec2::254.
NOT_PUBLIC: Final = (
    ipaddress.IPv4Network("168.63.129.16/32"),
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv6Network("3fff::/20"),
)
# Names that no public resolver answers (RFC 6761, 6762, 8375, ICANN's .internal) and those that networks use inside.
INWARD_NAMES: Final = ("localhost", "local", "internal", "home.arpa", "lan", "intranet", "corp", "home", "localdomain")
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?")
_UNWRITABLE: Final = re.compile(r"[\s\\\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What the operator lets webhooks reach although it is not public, by address or by name; also without TLS."""

    networks: tuple[IPNetwork, ...] = ()
    hosts: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return ", ".join([*map(str, self.networks), *sorted(self.hosts)])

    def names(self, host: str) -> bool:
        """Return whether a host is allowed by its name, whatever its addresses are."""
        return plain_host(host) in self.hosts

    def holds(self, address: IPAddress) -> bool:
        """Return whether an address is in an allowed network."""
        return any(address in network for network in self.networks)


NOWHERE: Final = Allowed()


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
                raise ValueError("write networks such as 10.0.0.0/8, addresses or host names") from None
            hosts.add(host)
    return Allowed(networks=tuple(networks), hosts=frozenset(hosts))


def refusal(host: str, address: str, allowed: Allowed, *, encrypted: bool) -> str | None:
    """Say why a host must not be dialed at an address that it has, or give None where it may be."""
    if allowed.names(host):
        return None
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return f"its address cannot be read; allow it by name in {ALLOW}"
    if allowed.holds(_unwrapped(found)):
        return None
    if not is_public(found):
        return f"it is not on the public internet; allow it in {ALLOW} if it is meant"
    return None if encrypted else f"http is for hosts in {ALLOW} only; use https"


def is_public(address: IPAddress) -> bool:
    """Return whether an address is one of the public internet, and so are those that it stands for."""
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
    """Say what is wrong with an address that a caller wants to be called back at, or give None.

    What can be seen without asking a resolver; the rest is seen when it is dialed.
    """
    try:
        parts = urlsplit(url)
        sound = _is_sound(url, parts)
    except ValueError:
        sound = False
    if not sound:
        return f"must be an http or https address of at most {LONGEST} characters"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or a password"
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
    told_by_resolver = address is None and bool(allowed.networks)
    return wrong or (None if encrypted or told_by_resolver else "must be an https address")


def plain_host(host: str) -> str:
    """Return a host's name as resolvers take it: lower case, compatible letters folded, no brackets, no root dot."""
    return unicodedata.normalize("NFKC", host).strip("[]").lower().rstrip(".")


def _is_sound(url: str, parts: SplitResult) -> bool:
    port_is_read = parts.port is None or parts.port > 0
    written = len(url) <= LONGEST and url.isprintable() and _UNWRITABLE.search(url) is None
    return written and port_is_read and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _wrong_name(host: str, allowed: Allowed) -> str | None:
    if not _HOST.fullmatch(_ascii(host)):
        return "must name a host"
    inside = "." not in host or host.endswith(tuple("." + name for name in INWARD_NAMES))
    # Where networks are allowed, such a name may lead to them.
    return "must not point to a name of an internal network" if inside and not allowed.networks else None


def _numeric(host: str) -> IPAddress | None:
    """Read an address in any form that resolvers take for one: 127.1, 0x7f000001, 2130706433, 0177.0.0.1 too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _unwrapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 one is dialed as, where it is mapped or translated."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in TRANSLATED else address


def _ascii(host: str) -> str:
    """Return a name in the letters of the resolvers; what cannot be written so comes back as it is."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host
