"""``python:module:callable``: a function in this process, called with each event as a dict.

The dict is the structured CloudEvent: plain JSON values. A function that returns has taken the event, one that raises
is called again later; it may be called twice for one event, and knows that by the event's id.
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
# For a whole wave: what takes longer is better given to something that queues.
WITHIN: Final = timedelta(seconds=20)
# What has begun may still end by itself.
GRACE: Final = timedelta(seconds=3)
_WRITTEN: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class Function:
    """A callable as a sink. A plain function runs in a thread, a wave at once; a coroutine function on this loop."""

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
        """There is nothing to get ready."""

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
            raise TypeError("it returned a coroutine: declare it with async def")

    def _outcome(self, task: asyncio.Task[Outcome]) -> Outcome:
        if task.done() and not task.cancelled():
            return task.result()
        return Outcome(delivered=False, error=f"no end within {self._within.total_seconds():g} s")


def is_written(text: str) -> bool:
    """Return whether a text has the form of ``module:callable``."""
    return _WRITTEN.fullmatch(text) is not None


def load(spec: SinkSpec) -> Hook:
    """Import the callable of a ``python:`` address; the working directory is searched last. Raises SettingsError."""
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
            f"{_names(spec)}: there is no module {error.name}; install it or correct the name"
        ) from None
    except AttributeError:
        raise SettingsError(f"{_names(spec)}: {module} has no {path}; correct the name") from None
    except Exception as error:  # noqa: BLE001 - a module may raise anything
        raise SettingsError(f"{_names(spec)}: importing {module} raised {type(error).__name__}") from None
    if not callable(found):
        raise SettingsError(f"{_names(spec)}: {path} of {module} cannot be called; name a function")
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
    except BaseException as error:  # noqa: BLE001 - what others' code raises must not end the process
        return Outcome(delivered=False, error=_raised(error))
    return DELIVERED


def _raised(error: BaseException) -> str:
    """Say what was raised without its message, which may hold anything."""
    return f"it raised {type(error).__name__}"
