"""URLs of result files."""

from typing import Final

from tracker.model.untrusted import JsonValue

URL_LENGTH: Final = 4096
_WEB_SCHEMES: Final = frozenset({"http", "https"})


def web_address(value: JsonValue) -> str | None:
    """Return a URL that is safe to store and to show, because dashboards make links from it, or None."""
    if not isinstance(value, str) or len(value) > URL_LENGTH or not value.isprintable():
        return None
    scheme, _, rest = value.partition("://")
    # The blank is the only printable white space. Browsers read a backslash as a slash.
    fits = rest and rest[0] != "/" and " " not in rest and "\\" not in rest and scheme.lower() in _WEB_SCHEMES
    return value if fits else None
