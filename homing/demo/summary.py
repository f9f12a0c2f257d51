"""The summary of a demo run: Homing's tasks compared with the sandbox's ledger, which shows what really happened.

The functions are pure. Their input is the documents of both sides. The unique prompt of each create request connects
the request, a task of Homing and a task of the ledger, so the comparison uses no ID from Homing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tracker.model.task import FINAL, Status, Verdict

# The ledger uses the provider's legacy statuses.
STATUSES: Final = {"succeed": "succeeded", "failed": "failed"}
TEXT: Final = """\
finished      {finished} of {orders} in {seconds} s
first report  {reports}
recovered     {recovered_submits} of them after a submission whose reply was lost
callbacks     {callbacks} received, {duplicates_absorbed} duplicates absorbed
forgeries     {forgeries[sent]} forged or replayed; {forgeries[refused]} refused, {forgeries[unverified]} unverified
requests      {provider_requests_per_task} to the provider per task ({requests})
compared with the sandbox's ledger: lost {lost}, doubled {doubled}, wrong {wrong}"""
Document = dict[str, Any]


def summarize(
    prompts: list[str], histories: list[Document], stats: Document, ledger: Document, *, seconds: float, timed_out: bool
) -> Document:
    """Return the summary as a JSON document. ``histories`` holds the API's history document of every row."""
    # A rejected submission created no task and released its external ID. The repeated request is another task.
    shown = [history for history in histories if history["task"]["status"] != Status.REJECTED]
    finished = [history for history in shown if history["task"]["status"] in FINAL]
    faults = {prompt: [*_faults(prompt, [history["task"] for history in shown], ledger["tasks"])] for prompt in prompts}
    counts = Counter(fault for found in faults.values() for fault in found)
    callbacks = [callback for task in ledger["tasks"] for callback in task["callbacks"] if callback["attempts"]]
    forged = Counter(callback["state"] for callback in callbacks if callback["kind"] in {"forged", "replayed"})
    sources = [{(entry["source"], entry["trust"]) for entry in history["entries"]} for history in finished]
    requests = {name: number for name, number in ledger["requests"].items() if number and name != "result"}
    return {
        "orders": len(prompts),
        "finished": len(finished),
        "first_reported_by": dict(Counter(map(first_report, finished)).most_common()),
        "recovered_submits": sum(("submit", "provider") not in pairs for pairs in sources),
        "unfinished": len(shown) - len(finished),
        **{fault: counts[fault] for fault in ("lost", "doubled", "wrong")},
        "suspects": [prompt for prompt in prompts if faults[prompt]],
        "callbacks": stats["callbacks"],
        "duplicates_absorbed": stats["duplicate_callbacks"],
        "forgeries": {"sent": forged.total(), "refused": forged["refused"], "unverified": forged["delivered"]},
        "provider_requests": requests,
        "provider_requests_per_task": round(sum(requests.values()) / len(prompts), 2),
        "seconds": round(seconds, 1),
        "timed_out": timed_out,
        "ok": not counts and len(shown) == len(finished) and not timed_out,
    }


def first_report(history: Document) -> str:
    """Return the source of the observation that ended the task. A source with more trust may confirm it later."""
    entries = (entry for entry in history["entries"] if entry["verdict"] == Verdict.APPLIED)
    return next((entry["source"] for entry in entries if entry["status"] in FINAL), "none")


def lines(summary: Document) -> Iterator[str]:
    """Yield the lines of the summary for a terminal."""
    reports = ", ".join(f"{number} by {name}" for name, number in summary["first_reported_by"].items()) or "none"
    requests = ", ".join(f"{number} {name}" for name, number in summary["provider_requests"].items())
    yield from TEXT.format(**summary, reports=reports, requests=requests).splitlines()
    if summary["suspects"]:
        yield f"look at       {', '.join(summary['suspects'])}"
    if summary["timed_out"]:
        yield "The time limit passed before all tasks and callbacks had ended."


def _faults(prompt: str, tasks: Sequence[Document], made: Sequence[Document]) -> Iterator[str]:
    """Compare the tasks of one request with the tasks that the provider created for it."""
    rows = [task for task in tasks if task["request"]["prompt"] == prompt]
    truth = [task for task in made if task["prompt"] == prompt]
    finals = [row for row in rows if row["status"] in FINAL]
    if not finals:
        yield "lost"
    if len(truth) > 1 or len(rows) > 1:
        yield "doubled"
    if any(not any(_agrees(row, task) for task in truth) for row in finals):
        yield "wrong"


def _agrees(row: Document, task: Document) -> bool:
    """Return whether a task has the right status, the right asset URLs, and the right provider ID if it has one.

    Homing never takes that ID from a callback, so a task without an answer to its submission may finish without it.
    """
    return bool(
        row["provider_task_id"] in {None, task["id"]}
        and row["status"] == STATUSES.get(task["status"])
        and sorted(asset["url"] for asset in row["result"]["assets"]) == sorted(task["result_urls"])
    )
