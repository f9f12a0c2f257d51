"""Error texts for failed connections. They never contain a URL."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Final

_TEXTS: Final[Mapping[type[BaseException], str]] = {
    ConnectionRefusedError: "connection refused",
    ConnectionResetError: "connection reset",
    socket.gaierror: "its name cannot be resolved",
    UnicodeError: "its name cannot be resolved",
    ssl.SSLError: "no TLS connection",
    TimeoutError: "could not connect in time",
}


def connect_problem(error: BaseException) -> str:
    """Return why there is no connection, by the type of the error. Its own text might repeat the URL."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        for kind, text in _TEXTS.items():
            if isinstance(cause, kind):
                return text
    return "could not connect"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error and its causes, the root first."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        if isinstance(error, BaseExceptionGroup):
            # Every address of the host failed. The first one says as much as all.
            error = error.exceptions[0]
        else:
            error = error.__cause__ or error.__context__ or error
    return reversed(chain)
