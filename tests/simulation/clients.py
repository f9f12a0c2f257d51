"""Clients: each order is one picture that one client wants once, however often it has to send for it."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.simulation.deployment import Deployment
from tests.simulation.http_caller import Answer, Broken
from tests.simulation.process import CLIENTS
from tests.simulation.world import World

SENDING_SECONDS: Final = 60.0
TRIES: Final = 30
FINAL: Final = frozenset({"succeeded", "failed"})
Style = Literal["submit", "expect", "adopt"]
Naming = Literal["external id", "idempotency key", "none"]


@dataclass(slots=True, kw_only=True)
class Order:
    """What one client wants, and the answers that it got. The prompt is unique: it finds the task at the provider."""

    number: int
    client: str
    style: Style
    naming: Naming
    task_id: str | None = None
    # The last answer said that this order is never accepted.
    refused: bool = False
    # A request ended without an answer, and none was accepted since.
    unanswered: bool = False
    # When the request whose answer has ``task_id`` was sent, and when it was answered.
    sent_at: float = 0.0
    accepted_at: float = 0.0
    # The requests name a URL of the client for callbacks.
    wants_callback: bool = False
    # The name that the client's own code gave the task, and the task that it made at the provider.
    expected_id: str | None = None
    attached: bool = False
    made_id: str | None = None
    done: bool = False
    answers: list[str] = field(default_factory=list)
    # When each request was sent that was answered with a refusal, and when it was answered.
    refusals: list[tuple[float, float]] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        return f"order {self.number}"

    @property
    def external_id(self) -> str:
        return f"{self.client}-{self.number}"

    def accept(self, task_id: str, *, sent_at: float, now: float) -> None:
        self.task_id, self.sent_at, self.accepted_at = task_id, sent_at, now


class Clients:
    """All orders of a history."""

    def __init__(self, world: World, deployment: Deployment) -> None:
        self.world = world
        self.deployment = deployment
        self.orders = [self._order(number) for number in world.plan.orders]
        # What a client saw that it must not see.
        self.leaks: list[str] = []

    def _order(self, number: int) -> Order:
        world, dice = self.world, self.world.chance(f"style {number}")
        style: Style = "submit" if dice < 0.7 else "expect" if dice < 0.85 else "adopt"
        naming: Naming = world.choice(f"naming {number}", ("external id", "idempotency key", "none"))
        return Order(
            number=number,
            client=world.choice(f"client {number}", CLIENTS),
            style=style,
            naming=naming,
            wants_callback=style == "submit" and world.chance(f"client callback {number}") < 0.3,
        )

    async def run(self, order: Order) -> None:
        """Send for one order until its task is known, then watch it. Send again if a restored backup forgot it."""
        world = self.world
        await asyncio.sleep(world.between(f"start {order.number}", 0.0, SENDING_SECONDS))
        is_forgotten = True
        while is_forgotten:
            match order.style:
                case "submit":
                    await self._submit(order)
                case "expect":
                    await self._expect(order)
                case "adopt":
                    await self._adopt(order)
            is_forgotten = await self._watch(order)
        order.done = True

    async def _submit(self, order: Order) -> None:
        world = self.world
        product = self.deployment.provider.product
        headers = {"idempotency-key": order.external_id} if order.naming == "idempotency key" else {}
        external_id = order.external_id if order.naming == "external id" else None
        callback_url = f"https://{order.client}.example/results" if order.wants_callback else None
        sent = json.dumps(product.request(order.prompt, external_id, callback_url)).encode()
        create = f"/kling{product.path}"
        for _ in range(TRIES):
            about = f"order {order.number}"
            hang_up_after = (
                world.between(f"patience {about}", 0.05, 8.0) if world.strikes("client hangs up", about) else None
            )
            twice = order.naming != "none" and world.strikes("client repeats", about)
            sent_at = world.loop.time()
            tries = [self._ask(order, "POST", create, sent, hang_up_after, headers) for _ in range(2 if twice else 1)]
            answers = await asyncio.gather(*tries)
            for answer in answers:
                self._note_answer(order, answer, sent_at)
            if order.task_id is not None or order.refused:
                return
            await asyncio.sleep(world.between(f"again {about}", 0.5, 5.0))

    def _note_answer(self, order: Order, answer: Answer | None, sent_at: float) -> None:
        if answer is None:
            order.unanswered = True
            order.answers.append("none")
            return
        order.answers.append(str(answer.status))
        if answer.status == 200 and answer.json()["code"] == 0:
            task_id = self.deployment.provider.product.task_id(answer.json()["data"])
            if order.task_id not in {None, task_id} and not self.world.forgotten:
                self.leaks.append(f"order {order.number} has two tasks: {order.task_id} and {task_id}")
            order.accept(task_id, sent_at=sent_at, now=self.world.loop.time())
            order.refused, order.unanswered = False, False
        else:
            order.refusals.append((sent_at, self.world.loop.time()))
            order.refused = order.task_id is None and self._is_refusal(answer)

    @staticmethod
    def _is_refusal(answer: Answer) -> bool:
        """Return whether repeating the request is pointless."""
        return 400 <= answer.status < 500 and answer.status not in {408, 409, 425, 429}

    async def _expect(self, order: Order) -> None:
        """Expect a task, then make it at the provider as one's own code would."""
        world, provider = self.world, self.deployment.provider
        callback_url = None
        for number in range(TRIES):
            external_id = order.expected_id or f"{order.external_id}-{number}"
            expected = {"provider": "kling", "kind": self.deployment.provider.product.kind}
            if order.naming != "none":
                expected["external_id"] = external_id
            body = json.dumps(expected).encode()
            sent_at = world.loop.time()
            answer = await self._ask(order, "POST", "/v1/tasks/expect", body)
            if answer is not None and answer.status == 201:
                order.accept(answer.json()["task"]["id"], sent_at=sent_at, now=world.loop.time())
                callback_url, order.expected_id = answer.json()["callback_url"], external_id
                break
            if answer is not None and answer.status == 409 and order.expected_id is not None:
                # It was expected, but the answer was lost.
                found = await self._ask(order, "GET", f"/v1/tasks/{external_id}")
                if found is not None and found.status == 200:
                    order.accept(found.json()["id"], sent_at=sent_at, now=world.loop.time())
                    break
            await asyncio.sleep(world.between(f"expect again {order.number}", 0.5, 5.0))
        if order.task_id is None:
            return
        await asyncio.sleep(world.between(f"own submit {order.number}", 0.0, 3.0))
        is_new = order.made_id is None
        if order.made_id is None:
            own_id = None if order.naming == "none" else order.expected_id
            order.made_id = provider.make(provider.product.request(order.prompt, own_id, callback_url)).id
        if not is_new or world.chance(f"attach {order.number}") < 0.5 or provider.is_blind:
            attached = {"provider_task_id": order.made_id}
            answer = await self._until_answered(order, "PATCH", f"/v1/tasks/{order.task_id}", attached)
            order.attached = answer is not None and answer.status < 300

    async def _adopt(self, order: Order) -> None:
        if order.made_id is None:
            provider = self.deployment.provider
            order.made_id = provider.make(provider.product.request(order.prompt, None, None)).id
        await asyncio.sleep(self.world.between(f"adopt {order.number}", 0.0, 20.0))
        body = {"provider": "kling", "kind": self.deployment.provider.product.kind, "provider_task_id": order.made_id}
        sent_at = self.world.loop.time()
        answer = await self._until_answered(order, "POST", "/v1/tasks/adopt", body)
        if answer is not None and answer.status == 201:
            order.accept(answer.json()["id"], sent_at=sent_at, now=self.world.loop.time())

    async def _until_answered(self, order: Order, method: str, url: str, body: dict[str, Any]) -> Answer | None:
        """Repeat a request until it is answered with success; no fault prevents that forever."""
        answer = None
        for _ in range(TRIES * 3):
            answer = await self._ask(order, method, url, json.dumps(body).encode())
            is_forgotten = method == "PATCH" and self._is_forgotten(answer)
            if answer is not None and (answer.status < 300 or is_forgotten):
                return answer
            await asyncio.sleep(self.world.between(f"answer {order.number}", 1.0, 6.0))
        return answer

    def _is_forgotten(self, answer: Answer | None) -> bool:
        return answer is not None and answer.status == 404 and bool(self.world.forgotten)

    async def _watch(self, order: Order) -> bool:
        """Read the task now and then, as another client too, until it is settled.

        Return whether a restored backup forgot it and the client has to send for it again. Without a name, that would
        be a new order.
        """
        world = self.world
        if order.task_id is None:
            return False
        url = f"/v1/tasks/{order.task_id}"
        other_client = next(name for name in CLIENTS if name != order.client)
        while not world.faultless:
            answer = await self._ask(order, "GET", url)
            if answer is not None and answer.status == 200 and answer.json()["status"] in FINAL:
                return False
            if self._is_forgotten(answer):
                if order.style == "submit" and order.naming == "none":
                    return False
                order.task_id = None
                return True
            if world.strikes("client misuses ids", f"order {order.number}"):
                await self._misuse(order, other_client)
            await asyncio.sleep(world.between(f"watch {order.number}", 5.0, 25.0))
        return False

    async def _misuse(self, order: Order, other_client: str) -> None:
        """Let another client name this order's IDs in every verb. It must neither see nor change the task."""
        deployment, how = (
            self.deployment,
            self.world.choice("misuse", ("get", "gateway", "poll", "expect", "adopt", "attach")),
        )
        made = next((made for made in deployment.provider.tasks.values() if made.prompt == order.prompt), None)
        theirs = made.id if made is not None else "kl999999"
        product = deployment.provider.product
        expected = {"provider": "kling", "kind": product.kind, "external_id": theirs}
        requests = {
            "get": ("GET", f"/v1/tasks/{order.task_id}", None),
            "gateway": ("GET", f"/tasks?task_ids={theirs}" if product.is_new else f"{product.path}/{theirs}", None),
            "poll": ("POST", f"/v1/tasks/{order.task_id}/poll", None),
            "expect": ("POST", "/v1/tasks/expect", expected),
            "adopt": ("POST", "/v1/tasks/adopt", {**expected, "provider_task_id": theirs, "external_id": "misused"}),
            "attach": ("PATCH", f"/v1/tasks/{order.task_id}", {"provider_task_id": theirs}),
        }
        method, url, body = requests[how]
        try:
            answer = await deployment.request(
                other_client, method, url, b"" if body is None else json.dumps(body).encode()
            )
        except Broken:
            return
        self.world.note(f"{other_client} misuses order {order.number} by {how}: {answer.status}")
        text = answer.body.decode()
        # A task without a row belongs to the first client that names it (a documented limit): one that the client's own
        # code made, or whose row a restored backup forgot.
        if (
            order.style == "submit"
            and (how in {"get", "poll"} or not self.world.forgotten)
            and (order.prompt + '"' in text or f"results.example/{theirs}" in text)
        ):
            self.leaks.append(f"{other_client} saw order {order.number} of {order.client} by {how}: {text[:200]}")

    async def _ask(
        self,
        order: Order,
        method: str,
        url: str,
        body: bytes = b"",
        hang_up_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer | None:
        try:
            answer = await self.deployment.request(
                order.client, method, url, body, hang_up_after=hang_up_after, headers=headers
            )
        except Broken as broken:
            self.world.note(f"{order.client} order {order.number} {method}: {broken}")
            return None
        self.world.note(f"{order.client} order {order.number} {method} {url[:60]}: {answer.status}")
        return answer
