"""The task state API and the gateway in the provider's shape, as ASGI: ``create_api(tracker, access)``."""

from tracker.api.access import Access, ClientKey, NamedKey, check_start
from tracker.api.app import create_api, health_routes, routes
from tracker.api.capacity import Limits

__all__ = ["Access", "ClientKey", "Limits", "NamedKey", "check_start", "create_api", "health_routes", "routes"]
