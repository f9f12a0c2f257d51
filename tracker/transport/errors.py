"""How a call may end without an answer; the two differ in the only thing that matters for a submit."""

from tracker.errors import OurError


class NotSent(OurError):
    """The request never reached the provider: nothing can have come of it."""

    title = "Provider unreachable"


class ReplyLost(OurError):
    """The request may have reached the provider, and its answer did not reach us."""

    title = "Provider's answer lost"
