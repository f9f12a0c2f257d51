"""The URL of a SQLite database."""

from pathlib import Path
from typing import Final
from urllib.parse import unquote

PREFIX: Final = "sqlite:///"


def path_of(url: str) -> Path | None:
    """Return the file of a ``sqlite:///…`` URL with percent-encoded characters decoded, or None for another URL."""
    return Path(unquote(url.removeprefix(PREFIX))) if url.startswith(PREFIX) else None
