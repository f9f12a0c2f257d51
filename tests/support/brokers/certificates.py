"""Authorities and certificates that are made for one test."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.support.brokers.servers import LOCALHOST


class Authority:
    """Sign certificates that clients with its ``file`` trust."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.file = folder / f"{name}.pem"
        self._folder = folder
        self._name = name
        self._signing = trustme.CA()
        self._signing.cert_pem.write_to_path(self.file)

    def certificate(self, host: str = LOCALHOST) -> "Certificate":
        """Create the certificate of the server of a host."""
        made = self._signing.issue_cert(host)
        file, key = (self._folder / f"{self._name}-{host}.{kind}" for kind in ("pem", "key"))
        made.cert_chain_pems[0].write_to_path(file)
        made.private_key_pem.write_to_path(key)
        return Certificate(file=file, key=key, authority=self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A server certificate; ``authority`` is the CA file of its clients."""

    file: Path
    key: Path
    authority: Path

    def shown(self) -> ssl.SSLContext:
        """Return the TLS context of the server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.file, self.key)
        return context

    def trusted_by_clients(self) -> ssl.SSLContext:
        """Return the TLS context of the tests' own clients, without a host name check."""
        context = ssl.create_default_context(cafile=self.authority)
        context.check_hostname = False
        return context
