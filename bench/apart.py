"""Measurements in a separate process: a module reads a plan as one line of JSON and writes its result as one line."""

import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import uvloop

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")
R = TypeVar("R", bound="DataclassInstance")

ROOT: Final = Path(__file__).parents[1]


def ask(module: str, plan: "DataclassInstance", result: type[R], *, within: float) -> R:
    """Run a module with a plan and return its result. ``within`` is a limit in seconds."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        text=True,
        timeout=within,
        start_new_session=True,
        check=True,
    )
    return result(**json.loads(done.stdout))


def answer(plan: type[P], measure: Callable[[P], Coroutine[Any, Any, "DataclassInstance"]]) -> None:
    """Read the plan, measure, and write the result."""
    result = uvloop.run(measure(plan(**json.loads(sys.stdin.readline()))))
    sys.stdout.write(json.dumps(asdict(result)) + "\n")
