"""Writes docs/reference/state-machine.md from the code's tables: run ``python -m tests.state_machine_page``."""

from pathlib import Path
from typing import Final

from tracker.model.facts import INFERRED, RANK
from tracker.model.task import FINAL, SETTLED, Status, Trust
from tracker.rules.lifecycle import TRANSITIONS

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "state-machine.md"
MEANINGS: Final = {
    Status.PENDING: "recorded; not known to be accepted by the provider",
    Status.SUBMITTED: "the provider has it",
    Status.PROCESSING: "the provider works on it",
    Status.SUCCEEDED: "the provider made the results",
    Status.FAILED: "the provider ended it without results",
    Status.REJECTED: "the provider refused the submission and made no task",
    Status.EXPIRED: "the deadline passed without an answer",
}
TRUSTS: Final = {
    Trust.PROVIDER: "the provider's own answer to Homing: a poll or the reply to a submission",
    Trust.SIGNED: "a callback with a valid signature of the provider",
    Trust.TOKEN: "a callback at the task callback URL, if no signature secret is configured",
    Trust.UNVERIFIED: "anything less, and any callback whose IDs do not match the task",
}
HEAD: Final = """\
<!-- made by tests/state_machine_page.py -->

# Statuses of a task
"""
ORDER: Final = """\

## Statuses

| rank | status | who decides it | meaning |
|---:|---|---|---|
"""
FINALS: Final = """\

## Precedence

The **greatest rank that was ever verified** decides the status, not the first report. So reports may come in any order,
twice, late or never. After the same reports, a task has the same status and the same facts.

- `rejected` and `expired` are inferences of Homing, so a verified report of the provider overrides them. Any report
  overrides `rejected`. A final report overrides `expired`.
- A report that is not final never undoes a final one.
- Two verified final reports can contradict each other. Then the provider's answer to a poll decides, else the later
  `updated_at` of the provider, else `succeeded`. A missing `updated_at` is the earliest. If a published final status
  changes, Homing publishes the event `homing.task.corrected` and raises an alarm.
- Results, price and message merge by the same order, each on its own, also after the final report. An empty value
  removes nothing.

## Diagram
"""
CONFLICTS: Final = """\

## Conflicts

Two contradictory reports about the end open a **conflict** if at least one of them is verified. Only the set of
reported ends counts. So neither the order nor the number of callbacks can hide a conflict. While it is open, Homing
polls the provider, after growing gaps of at most an hour.

Only two things close it:

- a poll that returns a final status;
- a manual resolution: `homing tasks resolve TASK --status succeeded` or `failed`. A later poll outranks it.

Callbacks and submit replies do not close it. If the provider does not decide for three days, the polls end with the
alarm `conflict`. The task then shows the conflict as `unanswered`.
"""
MOVES_HEAD: Final = """\

## Transitions

| from \\ to |"""
TRUST_HEAD: Final = """\

## Trust levels

| trust level | what has it |
|---|---|
"""
TAIL: Final = """\

A report ends a task without a poll if it has at least the level of `HOMING_MIN_FINAL_TRUST`. The default is `signed` if
a signature secret is configured, else `token`. A callback below that level is a *hint*: Homing records it, polls the
provider soon, and changes nothing.

## IDs

The IDs in a callback must be those of the task. This is the provider's ID if Homing knows it, else the external ID that
Homing sent. A report whose provider ID belongs to another task merges nothing, whatever its source.

Homing learns the provider's ID only from the provider's own answers:

- The reply to Homing's submission verifies the ID. So does a report that contains the external ID that Homing sent.
- Some IDs count once a poll confirmed them, but stay unverified. A client attached such an ID, a callback named it, or
  a lookup found it without showing an external ID. A callback with the task's own external ID outranks one without it:
  Homing polls by the ID that it names. The ID that the client attached outranks both.
- If the submit reply of another task names an unverified ID, Homing withdraws the ID from this task. It also discards
  what it learned through the ID.

A callback with one right ID and one wrong or missing ID may come before the provider's first answer. Then its trust
level can depend on the order of arrival. The provider's final answer gives the same end in every order.
"""


def page() -> str:
    """Return the whole page."""
    return "".join([HEAD, ORDER, *_order(), FINALS, _diagram(), *_moves(), CONFLICTS, TRUST_HEAD, *_trusts(), TAIL])


def _order() -> list[str]:
    by_rank = sorted(Status, key=lambda status: (RANK[status], status))
    return [f"| {RANK[status]} | `{status}` | {_who(status)} | {MEANINGS[status]} |\n" for status in by_rank]


def _who(status: Status) -> str:
    if status is Status.PENDING:
        return "Homing"
    kind = ", final" if status in FINAL else ""
    return "Homing infers it" if status in INFERRED else f"the provider{kind}"


def _moves() -> list[str]:
    lines = [MOVES_HEAD, "".join(f" {status} |" for status in Status), "\n|---|", "---|" * len(Status), "\n"]
    for status in Status:
        cells = "".join(" yes |" if other in TRANSITIONS[status] else " |" for other in Status)
        lines.append(f"| `{status}` |{cells}\n")
    return lines


def _diagram() -> str:
    arrows = [f"    {status} --> {other}\n" for status in Status for other in sorted(TRANSITIONS[status])]
    ends = [f"    {status} --> [*]\n" for status in sorted(SETTLED)]
    return "\n```mermaid\nstateDiagram-v2\n    [*] --> pending\n" + "".join(arrows + ends) + "```\n"


def _trusts() -> list[str]:
    return [f"| `{trust.name.lower()}` | {TRUSTS[trust]} |\n" for trust in sorted(Trust, reverse=True)]


if __name__ == "__main__":
    PAGE.write_text(page())
