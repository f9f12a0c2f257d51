"""The task state API and the gateway in the provider's shape, as ASGI: ``create_api(tracker, access)``."""

from tracker.api.access import Access, ClientKey, NamedKey, check_keys
from tracker.api.access_guard import AccessGuard
from tracker.api.app import create_api, guarded_routes, health_routes, routes
from tracker.api.capacity import Limits

__all__ = [
    "Access",
    "AccessGuard",
    "ClientKey",
    "Limits",
    "NamedKey",
    "check_keys",
    "create_api",
    "guarded_routes",
    "health_routes",
    "routes",
]
