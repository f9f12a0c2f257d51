"""`python -m homing`: the command where its script is not on the path."""

import sys

from homing.cli import main

sys.exit(main())
