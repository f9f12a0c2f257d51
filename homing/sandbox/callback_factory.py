"""Creates callbacks: genuine ones, faulty ones and forged ones.

This module is pure. Its input is a task, one of its states and the faults. It sends nothing and reads no clock.
"""

from dataclasses import replace
from random import Random
from urllib.parse import urlsplit, urlunsplit

from homing.sandbox import shapes
from homing.sandbox.faults import Faults
from homing.sandbox.outgoing_callback import Delivery, Kind, OutgoingCallback, webhook_id
from homing.sandbox.settings import CallbackShape, SandboxSettings
from homing.sandbox.signing import Seal
from homing.sandbox.submission import JsonObject
from homing.sandbox.task import FAILED, PROCESSING, SUCCEED, State, Task

_EVEN = 0.5
UNKNOWN_STATUSES = ("completed", "SUCCESS", "finished", "cancelled")
_LIE_MESSAGE = "Internal generation error"
_FORGED_RESULT = "https://results.attacker.invalid/{id}"
_FORGERIES: tuple[Seal, ...] = ("wrong_key", "none", "altered", "malformed")


class CallbackFactory:
    """Creates the callbacks for each change of a task's status."""

    def __init__(self, settings: SandboxSettings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults

    def callbacks(self, task: Task, target: str) -> list[OutgoingCallback]:
        """Return the callbacks to send, in order, for the newest state of the task."""
        if task.state.final:
            return self._at_the_end(task, target)
        callbacks = []
        if (dice := self._forgery(task)) and self._forges_early(task, dice):
            callbacks.append(self._forged(task, target, dice))
        held_back = task.state.status == PROCESSING and self._struck(task, "callback_out_of_order")
        if self._settings.intermediate and not held_back and not task.product.final_only:
            callbacks.append(self._genuine(task, target, task.state))
        return callbacks

    def replay(self, original: Delivery, target: str) -> OutgoingCallback:
        """Return an unchanged copy of a sent callback, addressed to the callback URL of another task."""
        kind: Kind = "replayed"
        return replace(original.callback, kind=kind, target=target, headers=original.sent_headers, delay=0.0)

    def steered(
        self,
        task: Task,
        target: str,
        *,
        state: State,
        shape: CallbackShape | None = None,
        seal: Seal = "genuine",
        identity: str | None = None,
        changes: JsonObject | None = None,
    ) -> OutgoingCallback:
        """Return a callback as a test specifies it. `changes` are merged into the task's part of the body."""
        body = shapes.callback(task, state, shape or self._settings.callback_shape, reseller=self._settings.reseller)
        _task_part(body).update(changes or {})
        return OutgoingCallback(
            kind="steered",
            about=task.id,
            target=target,
            status=state.status,
            body=shapes.dumps(body),
            webhook_id=identity or webhook_id(task.id, f"steered/{len(task.callbacks)}"),
            seal=seal,
        )

    def _at_the_end(self, task: Task, target: str) -> list[OutgoingCallback]:
        contradictory = self._strike(task, "callback_contradictory")
        final = self._final(task, target, honest=contradictory is not None)
        callbacks = [final]
        if (dice := self._strike(task, "callback_doubled")) and final.kind != "lost":
            identity = final.webhook_id if dice.random() < _EVEN else webhook_id(task.id, "duplicate")
            callbacks.append(replace(final, kind="duplicate", webhook_id=identity))
        if contradictory:
            before = contradictory.random() < _EVEN
            lie = self._contradiction(task, target, -1 if before else 1)
            callbacks.insert(0 if before else len(callbacks), replace(lie, delay=final.delay))
        if self._struck(task, "callback_out_of_order"):
            callbacks.append(replace(self._out_of_order(task, target, task.states[-2]), delay=final.delay))
        if (dice := self._forgery(task)) and not self._forges_early(task, dice):
            callbacks.append(self._forged(task, target, dice))
        return callbacks

    def _final(self, task: Task, target: str, *, honest: bool) -> OutgoingCallback:
        """Return the final callback, with the faults that apply.

        An `honest` callback corrects a contradictory one. It may be late or unsigned, but it is not lost or changed.
        """
        callback = self._genuine(task, target, task.state, losable=not honest)
        if callback.kind == "lost":
            return callback
        if self._struck(task, "callback_empty_result") and task.state.status == SUCCEED and not honest:
            emptied = replace(task.state, results=())
            callback = replace(callback, kind="empty_result", body=self._body(task, emptied))
        if (dice := self._strike(task, "callback_unknown_status")) and not honest:
            status = dice.choice(UNKNOWN_STATUSES)
            callback = replace(
                callback, kind="unknown_status", status=status, body=self._body(task, task.state, status)
            )
        if self._struck(task, "callback_unsigned"):
            callback = replace(callback, kind="unsigned", seal="none")
        if self._struck(task, "callback_late"):
            callback = replace(callback, kind="late", delay=self._settings.late_by)
        return callback

    def _genuine(self, task: Task, target: str, state: State, *, losable: bool = True) -> OutgoingCallback:
        lost = losable and self._faults.strike("callback_lost", task.index, state.status) is not None
        return OutgoingCallback(
            kind="lost" if lost else "genuine",
            about=task.id,
            target=target,
            status=state.status,
            body=self._body(task, state),
            webhook_id=webhook_id(task.id, state.status),
        )

    def _out_of_order(self, task: Task, target: str, state: State) -> OutgoingCallback:
        return replace(self._genuine(task, target, state, losable=False), kind="out_of_order")

    def _contradiction(self, task: Task, target: str, shift: int) -> OutgoingCallback:
        lie = self._opposite(task, task.state.updated_at + shift, f"{task.origin}/results/{task.id}-gone")
        callback = self._genuine(task, target, lie, losable=False)
        return replace(callback, kind="contradictory", webhook_id=webhook_id(task.id, "contradictory"))

    def _forged(self, task: Task, target: str, dice: Random) -> OutgoingCallback:
        """Return a forged callback: it reports the opposite result, with the webhook-id of the genuine callback.

        Without webhook secrets, only the callback URL verifies a callback. An attacker who knows that URL is trusted by
        design, so a forged callback then only guesses URLs or names other tasks.
        """
        variants = (*_FORGERIES, "wrong_url", "other_id") if self._signs else ("wrong_url", "other_id")
        variant = dice.choice(variants)
        lie = self._opposite(task, task.state.updated_at, _FORGED_RESULT.format(id=task.id))
        liar = task
        if variant == "other_id":
            liar = replace(task, id=task.id[::-1], submission=replace(task.submission, external_id="not-yours"))
        return OutgoingCallback(
            kind="forged",
            about=task.id,
            target=_guessed(target) if variant == "wrong_url" else target,
            status=lie.status,
            body=self._body(liar, lie),
            webhook_id=webhook_id(task.id, task.fate),
            seal=next((seal for seal in _FORGERIES if seal == variant), "none"),
            variant=variant,
        )

    def _opposite(self, task: Task, updated_at: int, url: str) -> State:
        truth = task.state.status if task.state.final else task.fate
        if truth == SUCCEED:
            return State(status=FAILED, updated_at=updated_at, message=_LIE_MESSAGE)
        return State(status=SUCCEED, updated_at=updated_at, results=(url,))

    def _body(self, task: Task, state: State, status: str | None = None) -> bytes:
        settings = self._settings
        body = shapes.callback(task, state, settings.callback_shape, reseller=settings.reseller)
        if status is not None:
            part = _task_part(body)
            part["task_status" if "task_status" in part else "status"] = status
        return shapes.dumps(body)

    @property
    def _signs(self) -> bool:
        return bool(self._settings.webhook_secrets)

    def _forgery(self, task: Task) -> Random | None:
        return self._strike(task, "callback_forged")

    def _forges_early(self, task: Task, dice: Random) -> bool:
        """Return whether a forged callback is sent while the task runs, or else after its end."""
        while_processed = dice.random() < _EVEN
        return while_processed and any(state.status == PROCESSING for state in task.states)

    def _strike(self, task: Task, name: str) -> Random | None:
        return self._faults.strike(name, task.index)

    def _struck(self, task: Task, name: str) -> bool:
        return self._strike(task, name) is not None


def _task_part(body: JsonObject) -> JsonObject:
    part = body.get("data", body)
    return part if isinstance(part, dict) else body


def _guessed(target: str) -> str:
    """Return the URL with one wrong character in its last segment, as a guess would have."""
    parts = urlsplit(target)
    head, _, last = parts.path.rpartition("/")
    middle = len(last) // 2
    wrong = "A" if last[middle : middle + 1] != "A" else "B"
    return urlunsplit(parts._replace(path=f"{head}/{last[:middle]}{wrong}{last[middle + 1 :]}"))
