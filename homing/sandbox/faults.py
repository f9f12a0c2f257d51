"""The deliberate faults, and the random decisions when they happen.

Each decision depends only on (seed, fault, index, occasion). A run with the same seed and the same order of create
requests has the same faults. A change of one rate does not change any other fault.
"""

from collections.abc import Mapping
from random import Random

CALLBACK_FAULTS: Mapping[str, str] = {
    "callback_lost": "a callback is never sent (chosen for each status change)",
    "callback_late": "the final callback comes `late_by` seconds late",
    "callback_doubled": "the final callback comes twice, with the same or with a new webhook-id",
    "callback_out_of_order": "the `processing` callback comes after the final one",
    "callback_contradictory": "a signed callback with the opposite final comes just before or after the real one",
    "callback_forged": "an attacker posts an invented final status to the task's callback URL, or to a guessed URL",
    "callback_replayed": "a genuine callback of another task is posted to this task's callback URL",
    "callback_unsigned": "the final callback has no signature, although the earlier ones had",
    "callback_unknown_status": "the final callback has an undocumented status",
    "callback_empty_result": "the callback of a success has no results, but the query has them",
}
SUBMIT_FAULTS: Mapping[str, str] = {
    "submit_reply_lost": "the task is created, then the connection is dropped or hangs without a reply",
    "submit_busy": "the create request is refused with 429/1303",
    "submit_unavailable": "the create request is refused with 503/5001, and nothing is created",
    "submit_late": "the connection is dropped without a reply, and the task is created `late_by` seconds later",
    "submit_repeated": "a proxy sends the create request twice; the answer is that of the second",
    "submit_foreign": "a reseller refuses the create request (401, 403, 404, 405, 429), and nothing is created",
    "duplicate_made": "a create request with a used external ID makes a second task",
}
REPLY_FAULTS: Mapping[str, str] = {
    "helper_reply_lost": "a call that is answered at once is done, then the connection is dropped or hangs",
    "server_error": "500/5000, 504/5002 or a bare 502; a create request may have made its task anyway",
    "lookup_denied": "queries by external ID never find the task, as if a gateway had sent another ID to the provider",
    "query_error": "a query is answered 5000, 429/1302, code 5000 under HTTP 200, or with broken JSON",
    "slow": "the answer comes `slow_by` seconds late",
    "dripping": "the answer comes byte by byte, `drip_pause` seconds apart",
}
FAULTS: Mapping[str, str] = {**CALLBACK_FAULTS, **SUBMIT_FAULTS, **REPLY_FAULTS}
"""Every fault with its description. A rate is a probability from 0 to 1."""


class UnknownFaultError(ValueError):
    """A fault is unknown, or a rate is not a probability. The message says what is valid."""


def checked_rates(rates: Mapping[str, object]) -> dict[str, float]:
    """Return the rates as floats, or raise `UnknownFaultError`."""
    checked = {}
    for name, rate in rates.items():
        if name not in FAULTS:
            raise UnknownFaultError(f"unknown fault {name!r}. Choose from {', '.join(sorted(FAULTS))}")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
            raise UnknownFaultError(f"the rate of {name} must be a number from 0 to 1")
        checked[name] = float(rate)
    return checked


class Faults:
    """The current fault rates, which may change while the sandbox runs, and the random decisions."""

    def __init__(self, seed: int, rates: Mapping[str, float]) -> None:
        self._seed = seed
        self._rates = checked_rates(rates)

    @property
    def rates(self) -> dict[str, float]:
        return dict(self._rates)

    def change(self, rates: Mapping[str, object]) -> None:
        """Set the named rates and keep the others. If one is invalid, none changes."""
        self._rates |= checked_rates(rates)

    def strike(self, name: str, index: int, occasion: str = "") -> Random | None:
        """Return a random generator if the fault happens to the task or request with this index, or else None.

        The generator chooses the variant of the fault.
        """
        dice = Random(f"{self._seed}/{name}/{index}/{occasion}")  # noqa: S311 - reproducible on purpose, no secret
        return dice if dice.random() < self._rates.get(name, 0.0) else None
