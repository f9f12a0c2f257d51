"""The receiver's ASGI app: a tracker, settings and the verifier of each provider.

It has no router, because there is one route. At thousands of callbacks a second, a framework's routing costs as much
as verifying a signature.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.endpoint import CallbackEndpoint, CallbackTracker, refuse_elsewhere
from receiver.providers import verifiers
from receiver.settings import ReceiverSettings

ROOT: Final = "/callbacks"


class Receiver:
    """Answers every path below ``/callbacks`` and passes other requests to the app ``otherwise``.

    Without ``otherwise``, the receiver answers other requests like an unknown token. It can run alone, in front of
    another app, or mounted into one. The program that starts it must open and close the tracker.
    """

    def __init__(self, tracker: CallbackTracker, settings: ReceiverSettings, otherwise: ASGIApp | None = None) -> None:
        self._endpoint = CallbackEndpoint(tracker, verifiers(settings.webhook_secrets), settings)
        self._prefixed = f"{settings.prefix}{ROOT}/"
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # A mounting app passes the whole path, and the mount point in `root_path`.
            path: str = scope["path"].removeprefix(scope.get("root_path", ""))
            if path.startswith(self._prefixed):
                # A proxy may keep or remove the path of the public URL.
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
    """Confirm the server's startup and shutdown events."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
