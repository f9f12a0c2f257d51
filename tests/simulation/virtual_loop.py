"""An asyncio event loop on virtual time: nothing waits, and equal seeds give equal runs.

Time passes only when nothing is ready: then it jumps to the next timer. Work for threads runs inline, after a virtual
delay. Every callback belongs to the process of the simulation whose code scheduled it, by a context variable. If that
process is killed, its callbacks are dropped without running anything, as a killed process runs no ``finally`` block.
"""

import asyncio
import heapq
import warnings
from bisect import insort
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Life:
    """One run of one process, from its start to its kill or end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        # Kept until the end of the history: destroying a suspended coroutine would run its ``finally`` blocks.
        self.tasks: list[asyncio.Task[Any]] = []
        self.connections: list[asyncio.Future[Any]] = []
        self._context = copy_context()
        self._context.run(LIFE.set, self)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as code of this process."""
        return asyncio.get_running_loop().create_task(coroutine, context=self._context.copy())

    def kill(self) -> None:
        """Stop all code of the process where it is. Its connections break."""
        self.alive = False
        for connection in self.connections:
            if not connection.done():
                connection.set_exception(ConnectionResetError("the process was killed"))

    def discard(self) -> None:
        """Destroy what is left of the process, unseen: its coroutines end wherever they were suspended."""
        with warnings.catch_warnings():
            # Some of them never began.
            warnings.simplefilter("ignore", RuntimeWarning)
            for task in self.tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                if not task.done():
                    with suppress(BaseException):
                        task.get_coro().close()
            self.tasks.clear()


LIFE: Final[ContextVar[Life | None]] = ContextVar("life", default=None)


class Stalled(Exception):
    """Nothing is left to run, and the awaited thing is not done."""


class VirtualLoop(asyncio.BaseEventLoop):
    """``delay`` returns the virtual seconds that one piece of work takes in a thread."""

    def __init__(self, delay: Callable[[], float]) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._delay = delay
        self.steps = 0
        # Functions to call before a step, by its number.
        self._before_steps: list[tuple[int, Callable[[], None]]] = []
        self.set_task_factory(_tracked)

    def time(self) -> float:
        return self._virtual_now

    def call_before_step(self, step: int, function: Callable[[], None]) -> None:
        """Call a function before the step with this number, or before the next one if that is over."""
        insort(self._before_steps, (step, function), key=lambda due: due[0])

    def thread_delay(self) -> float:
        """Return the virtual seconds that the next piece of work takes in a thread."""
        return self._delay()

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run ``func`` inline, when its virtual delay has passed."""
        del executor
        answer: asyncio.Future[T] = self.create_future()
        self.call_later(self._delay(), _run, answer, func, args)
        return answer

    def _run_once(self) -> None:
        """Run what is ready; if nothing is, let time pass to the next timer."""
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise Stalled
            self._virtual_now = max(self._virtual_now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._virtual_now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                self._step(handle)

    def _step(self, handle: asyncio.Handle) -> None:
        self.steps += 1
        while self._before_steps and self._before_steps[0][0] <= self.steps:
            self._before_steps.pop(0)[1]()
        life = handle._context.get(LIFE)  # type: ignore[attr-defined]
        if life is None or life.alive:
            handle._run()

    def forget(self) -> None:
        """Drop all that was to be run."""
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]

    def _process_events(self, event_list: object) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """Everything happens in this thread."""


def _tracked(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    context: Context = options.get("context") or copy_context()
    if (life := context.get(LIFE)) is not None:
        life.tasks.append(task)
    return task


def _run(answer: asyncio.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
    if answer.done():
        return
    try:
        result = func(*args)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the awaiting side gets it
        answer.set_exception(error)
    else:
        answer.set_result(result)
