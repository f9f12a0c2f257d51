"""Puts the receiver together: a tracker, settings, and how each provider's callbacks are verified.

A plain ASGI app without a router: there is one route, and at thousands of callbacks a second a framework's way to it
costs as much as verifying a signature.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.endpoint import CallbackEndpoint, CallbackTracker, refuse_elsewhere
from receiver.providers import verifiers
from receiver.settings import ReceiverSettings

ROOT: Final = "/callbacks"


class Receiver:
    """Answers ``/callbacks/{provider}/{token}`` and all else below ``/callbacks``; hands the rest on to ``otherwise``.

    Without another app the rest is answered as an unknown token is. It may face the internet alone, stand before
    another app, or be mounted into one. Whoever composes opens the tracker around the app's life.
    """

    def __init__(self, tracker: CallbackTracker, settings: ReceiverSettings, otherwise: ASGIApp | None = None) -> None:
        self._endpoint = CallbackEndpoint(tracker, verifiers(settings.webhook_secrets), settings)
        self._prefixed = f"{settings.prefix}{ROOT}/"
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # Whatever mounts the receiver passes the whole path, and how much of it is not the receiver's.
            path: str = scope["path"].removeprefix(scope.get("root_path", ""))
            if path.startswith(self._prefixed):
                # A proxy in front may pass on the path of the public URL, or take it away.
                path = path[len(self._prefixed) - len(ROOT) - 1 :]
            match path.split("/"):
                case ["", "callbacks", provider, token] if provider and token:
                    await self._endpoint.receive(provider, token, scope, receive, send)
                    return
            if self._otherwise is None or path == ROOT or path.startswith(f"{ROOT}/"):
                await refuse_elsewhere(send)
                return
        if self._otherwise is not None:
            await self._otherwise(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await send({"type": "websocket.close"})


def create_receiver(tracker: CallbackTracker, settings: ReceiverSettings, otherwise: ASGIApp | None = None) -> Receiver:
    """Make the receiver's ASGI app; see Receiver."""
    return Receiver(tracker, settings, otherwise)


async def _live(receive: Receive, send: Send) -> None:
    """Follow the server's start and end, at which there is nothing to do."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
