"""Operators: what people do to a running Homing, at moments that nobody chose well."""

import asyncio
import json
from typing import Any, Final

from tests.simulation.clients import Clients
from tests.simulation.deployment import Deployment
from tests.simulation.http_caller import Answer, Broken
from tests.simulation.sinks import SINKS
from tests.simulation.world import World

ACTIONS: Final = ("poll", "resolve", "attach", "pause", "replay", "dead-letter", "stats", "shared url")
# An ID that no task has.
WRONG_ID: Final = "kl999999"


class Operators:
    """One intervention is one action at one moment."""

    def __init__(self, world: World, deployment: Deployment, clients: Clients) -> None:
        self.world = world
        self.deployment = deployment
        self.clients = clients
        # Later events of a task pass its dead letters.
        self.dead_lettered: set[str] = set()

    async def run(self, number: int) -> None:
        world, name = self.world, f"intervention {number}"
        await asyncio.sleep(world.between(name, 5.0, 90.0))
        action = world.choice(name, ACTIONS)
        sink = world.choice(name, SINKS)
        known = [order for order in self.clients.orders if order.task_id is not None]
        match action:
            case "pause":
                await self.ask("POST", f"/v1/sinks/{sink}/pause")
                await asyncio.sleep(world.between(name, 1.0, 30.0))
                await self.ask("POST", f"/v1/sinks/{sink}/resume")
            case "replay":
                await self.ask("POST", "/v1/replay", {"sink": sink, "dry_run": False})
            case "dead-letter":
                self.dead_lettered.add(sink)
                await self.ask("POST", "/v1/deliveries/dead-letter", {"sink": sink, "dry_run": False})
            case "stats":
                await self.ask("GET", "/v1/stats")
            case "shared url":
                await self.ask("POST", "/v1/callback-urls", {"provider": "kling", "label": name})
            case _ if known:
                order = world.choice(name, known)
                await self._about(action, str(order.task_id))
            case _:
                world.note(f"operator: {action} has no task yet")

    async def _about(self, action: str, task_id: str) -> None:
        match action:
            case "poll":
                await self.ask("POST", f"/v1/tasks/{task_id}/poll")
            case "resolve":
                # Operators give up a task; what the provider verifiably reports overrides that.
                await self.ask("POST", f"/v1/tasks/{task_id}/resolve", {"status": "expired", "note": "simulated"})
            case "attach":
                await self.ask("PATCH", f"/v1/tasks/{task_id}", {"provider_task_id": WRONG_ID})

    async def resume_sinks(self) -> None:
        """Resume every sink that is off."""
        for (name,) in self.deployment.rows('SELECT name FROM sinks WHERE NOT "on"'):
            await self.ask("POST", f"/v1/sinks/{name}/resume")

    async def insist(self, method: str, url: str, body: dict[str, Any]) -> None:
        """Send a request until it is answered: the process may start again at this moment."""
        while (answer := await self.ask(method, url, body)) is None or answer.status >= 500:  # noqa: ASYNC110 - time is virtual
            await asyncio.sleep(1.0)

    async def ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> Answer | None:
        try:
            answer = await self.deployment.request(
                "operator", method, url, b"" if body is None else json.dumps(body).encode()
            )
        except Broken:
            return None
        self.world.note(f"operator {method} {url}: {answer.status}")
        return answer
