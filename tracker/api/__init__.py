"""The task state API and the gateway in the provider's shape, as ASGI: ``create_api(tracker, access)``."""

from tracker.api.app import create_api, guarded_routes, health_routes, routes
from tracker.api.http.access import Access, AccessGuard, WrongKeys, check_keys
from tracker.api.http.capacity import Limits

__all__ = [
    "Access",
    "AccessGuard",
    "Limits",
    "WrongKeys",
    "check_keys",
    "create_api",
    "guarded_routes",
    "health_routes",
    "routes",
]
