"""Signals as a process at a terminal has them, whatever started the tests."""

import signal
from types import FrameType
from typing import Final

# What a shell without job control ignores for what it starts in the background, what nohup ignores, and what stops.
ASKED_TO_END: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)


def restore_defaults_for_children() -> None:
    """Let the programs that this process starts hear the signals that it was told to ignore itself.

    An ignored signal stays ignored in a program that is started, a handled one gets its default action there. So the
    signals are handled here, by doing nothing.
    """
    for number in ASKED_TO_END:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    del number, frame
