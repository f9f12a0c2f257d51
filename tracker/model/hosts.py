"""The host that a URL or a Host header names."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    address = ip_of(host)
    return address is not None and address.is_loopback


def header_host(header: str) -> str:
    """Return the host of a Host header without its port, lower case; empty for anything that is no host."""
    return url_host(f"//{header}") if header.isprintable() and not set(header) & set("/?#@\\ ") else ""


def url_host(url: str) -> str:
    """Return a URL's host, lower case; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a host is, None where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
