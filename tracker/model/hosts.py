"""Functions that read the host of a URL or a Host header."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is a loopback name or address."""
    if host == "localhost":
        return True
    address = ip_of(host)
    return address is not None and address.is_loopback


def header_host(header: str) -> str:
    """Return the host of a Host header in lower case without its port, or an empty text if it is not valid."""
    return url_host(f"//{header}") if header.isprintable() and not set(header) & set("/?#@\\ ") else ""


def url_host(url: str) -> str:
    """Return the host of a URL in lower case, or an empty text if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address of a host, or None if the host is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
