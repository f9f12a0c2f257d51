"""Run histories from seeds: ``python -m tests.simulation --seeds 200``. It ends with 1 if one breaks a guarantee."""

import argparse
import json
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from coverage import Coverage

from tests.simulation.history import Ended, plan_for, run_history
from tests.simulation.shrink import outline, shrunk

RULES = Path(__file__).parents[2] / "tracker" / "rules"
COVERED = 20
PROGRESS_EVERY = 10
TRACE_LINES = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="How many histories to run (200).")
    parser.add_argument("--first", type=int, help="The first seed. Without it, a new one each time.")
    parser.add_argument(
        "--covered",
        type=int,
        default=COVERED,
        help="The number of histories whose coverage is measured (20). Measuring is slow.",
    )
    parser.add_argument("--trace", action="store_true", help="Print the trace of each history.")
    parser.add_argument("--no-shrink", action="store_true", help="Do not shorten the history that fails.")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    if arguments.covered < 0:
        parser.error("--covered must not be negative")
    first = time.time_ns() // 1_000_000_000 if arguments.first is None else arguments.first
    seeds, coverage = range(first, first + arguments.seeds), Coverage(data_file=None, branch=True, source=[str(RULES)])
    began, ended = time.perf_counter(), list[Ended]()
    for seed in seeds:
        with coverage.collect() if len(ended) < arguments.covered else nullcontext():
            ended.append(run_history(plan_for(seed)))
        if arguments.trace:
            sys.stdout.write("\n".join(ended[-1].trace) + "\n")
        if ended[-1].violations:
            _report(ended[-1], shrink=not arguments.no_shrink)
            return 1
        if len(ended) % PROGRESS_EVERY == 0:
            _progress(ended, len(seeds), time.perf_counter() - began)
    _summary(ended, time.perf_counter() - began)
    if arguments.covered:
        _print_branches(coverage, min(arguments.covered, len(ended)))
    return 0


def _print_branches(coverage: Coverage, histories: int) -> None:
    with TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        coverage.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    counts = {Path(name).name: file["summary"] for name, file in files.items() if file["summary"]["num_branches"]}
    taken, total = (sum(count[name] for count in counts.values()) for name in ("covered_branches", "num_branches"))
    sys.stdout.write(f"the first {histories} took {taken} of the {total} branches of tracker/rules:\n")
    for name, count in sorted(counts.items()):
        sys.stdout.write(f"  {count['covered_branches']:4} of {count['num_branches']:4}  {name}\n")


def _progress(ended: list[Ended], seeds: int, seconds: float) -> None:
    sys.stdout.write(f"  {len(ended)} of {seeds} histories, {60 * len(ended) / seconds:.0f} a minute\n")
    sys.stdout.flush()


def _summary(ended: list[Ended], seconds: float) -> None:
    faults = Counter[str]()
    for one in ended:
        faults.update(one.faults)
    sys.stdout.write(
        f"{len(ended)} histories without a broken guarantee, seeds {ended[0].plan.seed} to {ended[-1].plan.seed}, "
        f"{60 * len(ended) / seconds:.0f} a minute\n"
        f"in the median {median(one.tasks for one in ended):.0f} tasks, "
        f"{median(sum(one.faults.values()) for one in ended):.0f} faults, "
        f"{median(one.restarts for one in ended):.0f} restarts, {median(one.steps for one in ended):.0f} steps\n"
    )
    for fault, count in faults.most_common():
        sys.stdout.write(f"  {count:7}  {fault}\n")


def _note(text: str) -> None:
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()


def _report(ended: Ended, *, shrink: bool) -> None:
    sys.stdout.write(f"seed {ended.plan.seed} breaks a guarantee:\n")
    sys.stdout.writelines(f"  {violation}\n" for violation in ended.violations)
    if shrink:
        sys.stdout.write("looking for a shorter history …\n")
        ended = shrunk(ended, note=_note)
        sys.stdout.writelines(f"  {violation}\n" for violation in ended.violations)
    sys.stdout.write(f"{outline(ended.plan)}\n")
    sys.stdout.writelines(f"{line}\n" for line in ended.trace[-TRACE_LINES:])


if __name__ == "__main__":
    sys.exit(main())
