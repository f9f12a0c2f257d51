"""Puts the receiver together: a tracker, settings, and how each provider's callbacks are proven."""

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from receiver.endpoint import TEMPLATE, CallbackEndpoint, CallbackTracker, Elsewhere
from receiver.providers import verifiers
from receiver.settings import ReceiverSettings


def routes(tracker: CallbackTracker, settings: ReceiverSettings) -> list[BaseRoute]:
    """Give the routes below /callbacks, for an app that has others too.

    Whoever composes opens the tracker around the app's life (``async with tracker``).
    """
    endpoint = CallbackEndpoint(tracker, verifiers(settings.webhook_secrets), settings)
    # Plain ASGI apps, so that every method reaches them; the last two keep redirects and other answers from
    # telling a stranger anything.
    return [
        Route(TEMPLATE, endpoint, name="callback"),
        Route("/callbacks", Elsewhere(), name="callbacks"),
        Route("/callbacks/{rest:path}", Elsewhere(), name="callbacks_elsewhere"),
    ]


def create_receiver(tracker: CallbackTracker, settings: ReceiverSettings) -> Starlette:
    """Make the receiver's ASGI app. It may face the internet alone or be mounted into another app."""
    return Starlette(routes=routes(tracker, settings))
