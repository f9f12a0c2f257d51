"""The demo's account: what Homing's rows say, held against what the sandbox's ledger knows to be true.

Pure, from the documents that both sides show. The prompt of each order is unique and is what ties an order, a row and
a task of the ledger together: no id that Homing hands out or learned takes part in judging it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tracker.model.task import FINAL, Status
from tracker.model.untrusted import JsonObject, JsonValue

# The ledger speaks the provider's legacy words.
TRUE_WORDS: Final[Mapping[str, str]] = {"succeed": "succeeded", "failed": "failed"}
ASKING: Final = ("create", "single", "batch", "list", "cursor")
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How it went. ``lost``, ``doubled`` and ``wrong`` name the orders, so that a number can be looked into.

    ``came_home`` counts the finished tasks by what first reported their end, as the lines of the run do; ``recovered``
    those of them whose submit was never answered, and which were found by a lookup.
    ``strangers`` counts forged and replayed deliveries by what came of them; ``requests`` those to the provider.
    """

    orders: int
    came_home: Mapping[str, int]
    recovered: int
    unfinished: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    wrong: tuple[str, ...]
    deliveries: int
    duplicates: int
    strangers: Mapping[str, int]
    requests: Mapping[str, int]
    seconds: float
    timed_out: bool = False

    @property
    def clean(self) -> bool:
        """Return whether every order came home, once, with the truth."""
        return not (self.lost or self.doubled or self.wrong or self.unfinished or self.timed_out)

    @property
    def suspects(self) -> list[str]:
        """The orders to look at."""
        return sorted({*self.lost, *self.doubled, *self.wrong})

    @property
    def requests_per_task(self) -> float:
        return sum(self.requests.values()) / self.orders if self.orders else 0.0


def account(
    prompts: Sequence[str],
    histories: Sequence[Document],
    stats: Document,
    ledger: Document,
    *,
    seconds: float,
    timed_out: bool,
) -> Account:
    """Judge a run. ``histories`` are the API's history documents, one per row that Homing has."""
    # A refused submit made nothing and freed its external id: the order that was sent again is another row.
    rows = _by_prompt(row["task"] for row in histories if row["task"]["status"] != Status.REJECTED)
    truth = _by_prompt(ledger["tasks"])
    judged = {prompt: _judge(rows.get(prompt, []), truth.get(prompt, [])) for prompt in prompts}
    finished = [document for document in histories if document["task"]["status"] in FINAL]
    home = Counter(document["task"]["home"]["learned_from"] for document in finished)
    requests = {name: number for name in ASKING if (number := ledger["requests"].get(name, 0))}
    return Account(
        orders=len(prompts),
        came_home=dict(home),
        recovered=sum(not _answered(document) for document in finished),
        unfinished=sum(document["task"]["status"] not in {*FINAL, Status.REJECTED} for document in histories),
        lost=tuple(prompt for prompt, faults in judged.items() if "lost" in faults),
        doubled=tuple(prompt for prompt, faults in judged.items() if "doubled" in faults),
        wrong=tuple(prompt for prompt, faults in judged.items() if "wrong" in faults),
        deliveries=stats["deliveries"],
        duplicates=stats["duplicates"],
        strangers=_strangers(ledger),
        requests=requests,
        seconds=seconds,
        timed_out=timed_out,
    )


def as_json(told: Account) -> JsonObject:
    """Return the account as a document."""
    return {
        "orders": told.orders,
        "came_home": dict(told.came_home),
        "recovered_submits": told.recovered,
        "unfinished": told.unfinished,
        "lost": len(told.lost),
        "doubled": len(told.doubled),
        "wrong": len(told.wrong),
        "suspects": list[JsonValue](told.suspects),
        "deliveries": told.deliveries,
        "duplicates_absorbed": told.duplicates,
        "strangers": dict(told.strangers),
        "provider_requests": dict(told.requests),
        "provider_requests_per_task": round(told.requests_per_task, 2),
        "seconds": round(told.seconds, 1),
        "timed_out": told.timed_out,
        "ok": told.clean,
    }


def _judge(rows: Sequence[Document], truth: Sequence[Document]) -> set[str]:
    """Compare one order's rows with the tasks that were truly made for it."""
    faults = set()
    finals = [row for row in rows if row["status"] in FINAL]
    if not finals:
        # Whether the provider made it and we do not know, or nobody made it: the order did not come home.
        faults.add("lost")
    if len(truth) > 1 or len(rows) > 1:
        faults.add("doubled")
    if any(not any(_agrees(row, task) for task in truth) for row in finals):
        faults.add("wrong")
    return faults


def _agrees(row: Document, task: Document) -> bool:
    """Return whether a row is true: how the task ended, the URL of each result, and its provider ID if known.

    The provider's id is never taken from a callback: a task whose submit was not answered may come home without it.
    """
    urls = sorted(asset["url"] for asset in row["result"]["assets"])
    return bool(
        row["provider_task_id"] in {None, task["id"]}
        and row["status"] == TRUE_WORDS.get(task["status"])
        and urls == sorted(task["result_urls"])
    )


def _answered(document: Document) -> bool:
    """Return whether the provider ever answered a task's submit."""
    return any(entry["source"] == "submit" and entry["trust"] == "provider" for entry in document["entries"])


def _strangers(ledger: Document) -> dict[str, int]:
    """Count what strangers sent: refused at the door, or let in as a hint that by itself moves nothing."""
    deliveries = [delivery for task in ledger["tasks"] for delivery in task["callbacks"]]
    sent = [delivery for delivery in deliveries if delivery["kind"] in {"forged", "replayed"} and delivery["attempts"]]
    refused = sum(delivery["state"] == "refused" for delivery in sent)
    kept = sum(delivery["state"] == "delivered" for delivery in sent)
    return {"sent": len(sent), "refused": refused, "kept_as_hints": kept}


def _by_prompt(tasks: Iterable[Document]) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = {}
    for task in tasks:
        prompt = task["prompt"] if "prompt" in task else task["request"]["prompt"]
        found.setdefault(prompt, []).append(task)
    return found
