"""A pytest plugin: `kling_sandbox` is a stand-in for Kling on a port of its own.

    def test_my_service(kling_sandbox, my_service):
        my_service.point_at(kling_sandbox.base_url, kling_sandbox.api_key)
        task_id = my_service.make_a_picture("a cat")
        kling_sandbox.finish(task_id, status="failed")
        ...

It runs in a thread with its own loop, so it works for sync and async tests under any plugin. Every test run loads
this plugin, so the web server is imported only when a test requests the fixture.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from homing.sandbox import RunningSandbox

QUICK_SECONDS = 0.2
"""The run time of a fixture's tasks unless a test sets another."""


@pytest.fixture
def kling_sandbox_factory() -> "Iterator[Callable[..., RunningSandbox]]":
    """Return a function that starts a sandbox with the given `SandboxSettings`. All stop when the test ends."""
    import homing.sandbox as package  # noqa: PLC0415 - see the docstring of the module

    with contextlib.ExitStack() as running:

        def start(**settings: Any) -> "RunningSandbox":  # noqa: ANN401 - the settings check them
            chosen = {"run_time": QUICK_SECONDS, "run_time_sigma": 0.0, **settings}
            return running.enter_context(package.serve_in_thread(package.SandboxSettings(**chosen)))

        yield start


@pytest.fixture
def kling_sandbox(kling_sandbox_factory: "Callable[..., RunningSandbox]") -> "RunningSandbox":
    """Start a sandbox without faults and without webhook secrets, whose tasks succeed after a fifth of a second."""
    return kling_sandbox_factory()
