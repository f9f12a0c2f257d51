"""Writes docs/state-machine.md from the tables of ``tracker.lifecycle``: run ``python -m tests.state_machine_page``."""

from pathlib import Path
from typing import Final

from tracker.model.facts import INFERRED, RANK
from tracker.model.task import FINAL, SETTLED, Status, Trust
from tracker.rules.lifecycle import MOVES

PAGE: Final = Path(__file__).parents[1] / "docs" / "state-machine.md"
MEANINGS: Final = {
    Status.PENDING: "written down; not yet known to be accepted by the provider",
    Status.SUBMITTED: "the provider has it",
    Status.PROCESSING: "the provider works on it",
    Status.SUCCEEDED: "the provider made the results",
    Status.FAILED: "the provider gave it up",
    Status.REJECTED: "the provider refused the submit and made no task",
    Status.EXPIRED: "the deadline passed without an answer",
}
TRUSTS: Final = {
    Trust.PROVIDER: "the provider's own answer to us: a poll or a submit's reply",
    Trust.SIGNED: "a delivery with the provider's valid signature",
    Trust.TOKEN: "a delivery at the task's own address, where no signature secret is configured",
    Trust.UNVERIFIED: "anything less, and any delivery whose ids disagree with the row",
}
HEAD: Final = """\
# What moves a task

`python -m tests.state_machine_page` makes this page from the tables in `tracker/model/facts.py` and
`tracker/rules/lifecycle.py`; a test compares them. Change the tables, not the page.

A task's status is the **greatest word ever proven** in one total order, never the first to arrive. So observations may
come in any order, twice, late or never: after the same ones a task stands the same, in status and in facts.
"""
ORDER: Final = """\

## The order

A greater rank wins. `rejected` and `expired` are our own inference, so a proven word of the provider beats them:
any word a `rejected` task, a final one an `expired` task.

| rank | status | who says it | meaning |
|---:|---|---|---|
"""
FINALS: Final = """\

Of two contradictory proven finals the provider's answer to a poll wins, then the later `updated_at` of the provider
(none is the earliest), then `succeeded`. A final that changes is a `corrected` event and an alarm; a word that is not
final never undoes one. Results, price and message merge by the same order, one by one, also after the final: an empty
one takes nothing away.
"""
CONFLICTS: Final = """\

## Conflicts

Two contradictory reports about the end open a **conflict**: both are verified, or one is believed and the other is not
verified. It depends only on the set of reported ends, so neither the order of arrival nor the number of callbacks can
hide it. While it is open, Homing polls the provider, after growing gaps of at most an hour.

Only two things close it: a poll that returns a final status, and a manual resolution (`homing tasks resolve TASK
--status succeeded` or `failed`), which a later poll outranks. Callbacks and submit replies do not close it. If the
provider does not decide for three days, the polls end with the alarm `conflict`. The task then shows the conflict as
`unanswered`.
"""
MOVES_HEAD: Final = """\

## The moves

| from \\ to |"""
TRUST_HEAD: Final = """\

## Trust

| trust | what has it |
|---|---|
"""
TAIL: Final = """\

A final word is believed from the threshold up: `HOMING_MIN_FINAL_TRUST`, by default `signed` where a signature secret
is configured, else `token`. Below it a delivery is a hint: kept, answered by asking the provider soon, moving nothing.

The ids in a delivery must be those of the row: the provider's id where we know it, else the external id that we sent.
A report whose provider ID belongs to another task merges nothing, whatever its source.

Homing learns the provider's ID only from the provider's own answers. The reply to Homing's submit proves it, and so
does a report that carries the external ID that Homing sent. Some IDs count once a poll confirmed them, but stay
unproven: one that a client attached, that a callback named, or that a lookup found without showing an external ID. If
the submit reply of another task names such an ID, Homing withdraws it and discards what it learned through it.

A callback with one right ID and one wrong or missing ID may come before the provider's first answer. Then two orders of
arrival may differ in how far they trust it. The provider's final answer makes them agree.
"""


def page() -> str:
    """Return the whole page."""
    return "".join([HEAD, ORDER, *_order(), FINALS, _diagram(), *_moves(), CONFLICTS, TRUST_HEAD, *_trusts(), TAIL])


def _order() -> list[str]:
    by_rank = sorted(Status, key=lambda status: (RANK[status], status))
    return [f"| {RANK[status]} | `{status}` | {_who(status)} | {MEANINGS[status]} |\n" for status in by_rank]


def _who(status: Status) -> str:
    if status is Status.PENDING:
        return "we"
    kind = ", final" if status in FINAL else ""
    return "we infer it" if status in INFERRED else f"the provider{kind}"


def _moves() -> list[str]:
    lines = [MOVES_HEAD, "".join(f" {status} |" for status in Status), "\n|---|", "---|" * len(Status), "\n"]
    for status in Status:
        cells = "".join(" yes |" if other in MOVES[status] else " |" for other in Status)
        lines.append(f"| `{status}` |{cells}\n")
    return lines


def _diagram() -> str:
    arrows = [f"    {status} --> {other}\n" for status in Status for other in sorted(MOVES[status])]
    ends = [f"    {status} --> [*]\n" for status in sorted(SETTLED)]
    return "\n```mermaid\nstateDiagram-v2\n    [*] --> pending\n" + "".join(arrows + ends) + "```\n"


def _trusts() -> list[str]:
    return [f"| `{trust.name.lower()}` | {TRUSTS[trust]} |\n" for trust in sorted(Trust, reverse=True)]


if __name__ == "__main__":
    PAGE.write_text(page())
