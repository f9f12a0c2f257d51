"""The command `homing`. It checks the platform before it imports modules that exist only on POSIX."""

import sys
from typing import Final

CANNOT: Final = 2


def main() -> int:
    """Run the command and return its exit status."""
    if sys.platform == "win32":
        sys.stderr.write("homing: Windows is not supported. Run it in WSL 2 or in a container.\n")
        return CANNOT
    from homing.server.process import open_standard_streams  # noqa: PLC0415 - as below

    open_standard_streams()
    from homing.cli import main as run  # noqa: PLC0415 - it needs file locks and signals that Windows lacks

    return run()


if __name__ == "__main__":
    sys.exit(main())
