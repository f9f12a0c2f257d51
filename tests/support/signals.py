"""Signal handling as in a process at a terminal, independent of how the tests were started."""

import signal
from types import FrameType
from typing import Final

# Signals that a shell without job control or nohup ignores, and the stop signal.
ASKED_TO_END: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)


def restore_defaults_for_children() -> None:
    """Let child programs get the signals that this process was started to ignore.

    An ignored signal stays ignored in a program that is started, a handled one gets its default action there. So the
    signals are handled here, by doing nothing.
    """
    for number in ASKED_TO_END:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    del number, frame
