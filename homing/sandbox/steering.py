"""Steering: the actions with which a test controls one task instead of the clock."""

from homing.sandbox.callback_factory import CallbackFactory
from homing.sandbox.callback_sender import CallbackSender
from homing.sandbox.ledger import Ledger
from homing.sandbox.outgoing_callback import Delivery
from homing.sandbox.settings import CallbackShape
from homing.sandbox.signing import Seal
from homing.sandbox.submission import JsonObject
from homing.sandbox.task import FINALS, State, Task
from homing.sandbox.task_runner import SteeringError, TaskRunner


class UnknownTaskError(SteeringError):
    """No task has this ID or external ID."""


class Steering:
    """The actions. An ID is the task's own or its external one. Each action may raise `SteeringError`."""

    def __init__(self, ledger: Ledger, runner: TaskRunner, factory: CallbackFactory, sender: CallbackSender) -> None:
        self._ledger = ledger
        self._runner = runner
        self._factory = factory
        self._sender = sender

    def task(self, any_id: str) -> Task:
        task = self._ledger.by_id(any_id) or self._ledger.by_external_id(any_id)
        if task is None:
            raise UnknownTaskError(f"no task has the ID or external ID {any_id!r:.80}")
        return task

    def hold(self, any_id: str) -> Task:
        """Stop the task's clock."""
        task = self.task(any_id)
        self._runner.hold(task)
        return task

    def release(self, any_id: str) -> Task:
        """Start the task's clock again, for its whole run time."""
        task = self.task(any_id)
        self._runner.release(task)
        return task

    def process(self, any_id: str, *, notify: bool = True) -> Task:
        """Change the status from `submitted` to `processing`."""
        task = self.task(any_id)
        self._runner.process(task, notify=notify)
        return task

    def finish(
        self, any_id: str, *, status: str | None = None, message: str | None = None, notify: bool = True
    ) -> Task:
        """End the task with `succeed` or `failed` (default: its random status). Without `notify`, send no callback."""
        if status is not None and status not in FINALS:
            raise SteeringError(f"{status!r:.40} is not a final status. Choose {' or '.join(FINALS)}")
        task = self.task(any_id)
        self._runner.finish(task, status, message, notify=notify)
        return task

    def callback(
        self,
        any_id: str,
        *,
        status: str | None = None,
        shape: CallbackShape | None = None,
        seal: Seal = "genuine",
        webhook_id: str | None = None,
        target: str | None = None,
        changes: JsonObject | None = None,
    ) -> Delivery:
        """Send one callback about the task, once, also if the settings turn callbacks off.

        It reports the current state, or any other `status`. `changes` are merged into the task's part of the body. It
        goes to the task's callback URL, or to `target` (for a replay, the URL of another task). The delivery gets the
        answer later.
        """
        task = self.task(any_id)
        url = target or task.submission.callback_url
        if url is None:
            raise SteeringError("the task has no callback URL. Set a target")
        state = task.state
        if status is not None and status != state.status:
            state = State(status=status, updated_at=state.updated_at + 1)
        callback = self._factory.steered(
            task, url, state=state, shape=shape, seal=seal, identity=webhook_id, changes=changes
        )
        return self._sender.dispatch(task, [callback])[0]
