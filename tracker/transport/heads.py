"""Limits on what a peer may send before its answer: a few interim responses, and a bounded head.

h11 accepts any number of 1xx responses, so a server could keep this process busy for as long as a call may take. This
module checks the bytes before h11 gets them.
"""

import re
import ssl
from collections.abc import Iterable
from typing import Final

import httpcore

# Interim responses before the final head. "103 Early Hints" comes once or twice, "100 Continue" never.
INTERIM_RESPONSES: Final = 8
HEAD_BYTES: Final = 64 * 1024
# The end of a head, as h11 finds it.
_END: Final = re.compile(rb"\n\r?\n")
_INTERIM: Final = re.compile(rb"\s*HTTP/1\.[01] 1[0-9][0-9]\b")
_STATUS_LINE_BYTES: Final = 16


class BoundedBackend(httpcore.AsyncNetworkBackend):
    """Wraps a backend. Its connections limit the bytes before an answer."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._backend.connect_unix_socket(path, timeout, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that fails if the head of an answer takes too many bytes. It passes a body on unchanged."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._unread = b""
        self._interim = 0
        self._read = 0
        self._in_body = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as above
        data = await self._stream.read(max_bytes, timeout)
        if not self._in_body:
            self._look(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        # The next bytes are the head of the answer to this request.
        self._unread, self._interim, self._read, self._in_body = b"", 0, 0, False
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)

    def _look(self, data: bytes) -> None:
        """Check the received heads. Raises: RemoteProtocolError, if there are too many, or if one is too long."""
        self._read += len(data)
        unread = self._unread + data
        start = 0
        while _INTERIM.match(unread, start):
            end = _END.search(unread, start)
            if end is None:
                break
            self._interim += 1
            if self._interim > INTERIM_RESPONSES:
                raise httpcore.RemoteProtocolError("too many interim responses")
            start = end.end()
        else:
            if len(unread) - start >= _STATUS_LINE_BYTES:
                # This is the final head. h11 limits its size.
                self._unread, self._in_body = b"", True
                return
        if self._read > HEAD_BYTES:
            raise httpcore.RemoteProtocolError("no answer within the bytes of its head")
        self._unread = unread[start:]
