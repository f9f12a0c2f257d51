"""``python:module:callable``: a function in this process, called with each event as a dict.

The dict is the structured CloudEvent, with plain JSON values. A function accepts an event by returning. If it raises,
Homing calls it again later. Homing may call it twice with one event. Both calls have the same event ID.
"""

import asyncio
import importlib
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeGuard

from tracker.delivery.sinks.base import DELIVERED, Outcome
from tracker.delivery.sinks.threaded import Threaded
from tracker.errors import SettingsError
from tracker.model.event import PublishedEvent, as_dict
from tracker.model.event_filter import EVERYTHING, EventFilter
from tracker.model.sinks import SinkSpec

Hook = Callable[[dict[str, Any]], object]
AsyncHook = Callable[[dict[str, Any]], Awaitable[object]]

WIDTH: Final = 256
# The limit for a whole batch. Longer work belongs in a queue.
WITHIN: Final = timedelta(seconds=20)
# How long calls in progress may continue after the sink closes.
GRACE: Final = timedelta(seconds=3)
_WRITTEN: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class Function:
    """A callable as a sink. One thread calls a plain function for a whole batch. This event loop runs coroutines."""

    width = WIDTH

    def __init__(
        self,
        hook: Hook | AsyncHook,
        *,
        name: str,
        source: str,
        takes: EventFilter = EVERYTHING,
        within: timedelta = WITHIN,
        grace: timedelta = GRACE,
    ) -> None:
        self.name = name
        self._source = source
        self._takes = takes.takes
        self._within = within
        self._grace = grace
        self._hook = hook
        self._threaded: Threaded[dict[str, Any]] = Threaded(self._call, name=name, within=within, said=_raised)
        self._running: set[asyncio.Task[Outcome]] = set()

    async def open(self) -> None:
        """Do nothing, because a function needs no connection."""

    async def close(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace.total_seconds())
        for task in self._running:
            task.cancel()

    def endpoint(self, event: PublishedEvent) -> str | None:
        return self.name if self._takes(event) else None

    async def send(self, events: Sequence[PublishedEvent]) -> Sequence[Outcome]:
        items = [as_dict(event, self._source) for event in events]
        hook = self._hook
        if not _is_async(hook):
            return await self._threaded.run(items)
        begin = asyncio.get_running_loop().create_task
        tasks = [begin(_awaited(hook, item)) for item in items]
        self._running.update(tasks)
        try:
            await asyncio.wait(tasks, timeout=self._within.total_seconds())
        finally:
            for task in tasks:
                task.cancel()
                task.add_done_callback(self._running.discard)
        return [self._outcome(task) for task in tasks]

    def _call(self, item: dict[str, Any]) -> None:
        result = self._hook(item)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError("the function returned a coroutine. Declare it with async def")

    def _outcome(self, task: asyncio.Task[Outcome]) -> Outcome:
        if task.done() and not task.cancelled():
            return task.result()
        return Outcome(delivered=False, error=f"not finished within {self._within.total_seconds():g} s")


def is_written(text: str) -> bool:
    """Return whether a text has the form of ``module:callable``."""
    return _WRITTEN.fullmatch(text) is not None


def load(spec: SinkSpec) -> Hook:
    """Import the callable of a ``python:`` URL. The working directory is searched last. Raises: SettingsError."""
    module, _, path = spec.target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{_names(spec)}: there is no module `{error.name}`. Install it, or correct the name"
        ) from None
    except AttributeError:
        raise SettingsError(f"{_names(spec)}: module `{module}` has no `{path}`. Correct the name") from None
    except Exception as error:  # noqa: BLE001 - a module may raise anything
        raise SettingsError(
            f"{_names(spec)}: importing `{module}` raised {type(error).__name__}. Import it in Python to see why"
        ) from None
    if not callable(found):
        raise SettingsError(f"{_names(spec)}: `{path}` of `{module}` cannot be called. Name a function")
    hook: Hook = found
    return hook


def _names(spec: SinkSpec) -> str:
    return f"HOMING_SINKS: {spec.address}"


def _is_async(hook: Hook | AsyncHook) -> TypeGuard[AsyncHook]:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None))  # noqa: B004 - its own __call__ says how it is called


async def _awaited(hook: AsyncHook, item: dict[str, Any]) -> Outcome:
    try:
        await hook(item)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - no error of the user's code may end the process
        return Outcome(delivered=False, error=_raised(error))
    return DELIVERED


def _raised(error: BaseException) -> str:
    """Return a sentence with the type of an error. Its message may contain a secret."""
    return f"the function raised {type(error).__name__}"
