"""A fake Kling with every fault of a real one, and the truth about what it made.

It imports only the types of a transport from Homing: shapes and words are written here from the documentation. Where a
real provider cannot be known, a fault says what is assumed.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import unquote

from tests.simulation.products import PRODUCTS
from tests.simulation.provider_lists import list_page
from tests.simulation.provider_shapes import Made, page_of, reply_of, shown
from tests.simulation.world import World
from tracker.errors import NotSent, ReplyLost
from tracker.providers.base import Account, Call, Reply

SECRET_KEY: Final = b"simulated webhook key, 32 bytes.."
OTHER_KEY: Final = b"a key that the provider never had"
WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(SECRET_KEY).decode()
REPEATS: Final = 3
# Longer than any request waits.
FOR_EVER_SECONDS: Final = 3_600.0
API_KEY: Final = "simulated-provider-api-key"
# Sends one callback and returns the HTTP status of the answer, None where there was none.
Post = Callable[[str, dict[str, str], bytes], Awaitable[int | None]]


class Provider:
    """The provider of one history. Homing gets it as its transport."""

    def __init__(self, world: World, post: Post) -> None:
        self.world = world
        self.tasks: dict[str, Made] = {}
        # When each request came, and whether it created a task.
        self.requests: list[tuple[float, bool]] = []
        self.by_external: dict[str, list[Made]] = {}
        self.product = world.choice("product", PRODUCTS)
        # A gateway that renames external IDs: it repeats them in its replies and cannot look them up.
        self.renames = world.chance("provider renames") < world.plan.rates.get("echo without lookup", 0.0)
        if self.renames:
            world.note_fault("echo without lookup", "the provider")
        # Nothing finds a task by its external ID.
        self.is_blind = self.renames or not self.product.looks_up
        self._post = post
        self._down_until = 0.0
        self._refusing_until = 0.0
        self._sending: list[asyncio.Task[None]] = []
        self._old_callbacks: list[tuple[dict[str, str], bytes]] = []

    # -- what the tests decide ------------------------------------------------------------------------------------

    def outage(self, seconds: float) -> None:
        self._down_until = self.world.loop.time() + seconds

    def refuse_credential(self, seconds: float) -> None:
        self._refusing_until = self.world.loop.time() + seconds

    def end_faults(self) -> None:
        self._down_until = self._refusing_until = 0.0

    @property
    def busy(self) -> bool:
        """Whether a callback is still to be sent, or a task is still to end."""
        now = self.world.true_time()
        return any(not sending.done() for sending in self._sending) or any(
            made.final_at > now for made in self.tasks.values()
        )

    # -- requests -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Do nothing: each process opens its transport."""

    async def close(self) -> None:
        """Do nothing: each process closes its transport."""

    async def send(self, account: Account, call: Call, *, now: datetime, within: timedelta) -> Reply:
        """Answer one request of Homing, as ``tracker.transport.Sender`` does over HTTP."""
        del account, now
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await self._answer(call)
        except TimeoutError:
            raise ReplyLost("no answer in time") from None

    async def _answer(self, call: Call) -> Reply:
        world, name = self.world, f"{call.method} {call.path}"
        creates = call.method == "POST" and call.path == self.product.path
        self.requests.append((world.loop.time(), creates))
        world.note(f"provider <- {name}")
        seconds = world.between("latency", 0.02, 0.4)
        if world.strikes("slow reply", name):
            seconds = world.between("slow", 1.0, 9.0)
        if world.strikes("connection refused", name):
            await asyncio.sleep(seconds)
            raise NotSent("could not connect")
        if world.loop.time() < self._down_until:
            return await self._broken(name, seconds)
        await asyncio.sleep(seconds / 2)
        reply = self._create(json.loads(call.body)) if creates else self._query(call)
        if reply is None:
            await asyncio.sleep(FOR_EVER_SECONDS)
            raise ReplyLost("no answer in time")
        await asyncio.sleep(seconds / 2)
        world.note(f"provider -> {name}: {reply.status} {reply.body[:120]!r}")
        return reply

    async def _broken(self, name: str, seconds: float) -> Reply:
        how = self.world.choice("outage", ("not sent", "lost", "html", "maintenance"))
        self.world.note_fault("outage", f"{name}: {how}")
        if how == "not sent":
            raise NotSent("could not connect")
        if how == "lost":
            await asyncio.sleep(FOR_EVER_SECONDS)
        await asyncio.sleep(seconds)
        return page_of(502) if how == "html" else reply_of(503, 5001, "server maintenance")

    def _common(self, name: str) -> Reply | None:
        world = self.world
        if world.loop.time() < self._refusing_until:
            world.note_fault("credential refused", name)
            return reply_of(401, 1002, "Authorization is invalid")
        if world.strikes("busy", name):
            form = world.choice("retry-after", ("none", "seconds", "date", "nonsense"))
            code = world.choice("busy code", (1302, 1303))
            headers = {"date": format_datetime(world.true_time(), usegmt=True)}
            if form == "seconds":
                headers["retry-after"] = str(int(world.between("wait", 1, 20)))
            elif form == "date":
                later = world.true_time() + timedelta(seconds=int(world.between("wait", 1, 20)))
                headers["retry-after"] = format_datetime(later, usegmt=True)
            elif form == "nonsense":
                headers["retry-after"] = "soon"
            return reply_of(429, code, "too many requests", headers=headers)
        return None

    def _create(self, body: dict[str, Any]) -> Reply | None:
        world = self.world
        name = f"create {self.product.ids_in(body)[0] or ''}"
        if (refused := self._common(name) or self._refusal(name, body)) is not None:
            return refused
        if world.strikes("created late", name):
            # The task appears after the connection is long gone.
            self._start(self._make_later(world.between("late", 1.0, 12.0), body))
            return None
        if world.strikes("never created, no reply", name):
            return None
        made = self.make(body)
        if world.strikes("reply lost", name):
            return None
        reply = reply_of(200, 0, data=self._shown(made, world.true_time()))
        return self._unreadable(reply) if world.strikes("unreadable reply", name) else reply

    def _refusal(self, name: str, body: dict[str, Any]) -> Reply | None:
        # Assumption: the provider checks the ID before the content.
        external_id, _ = self.product.ids_in(body)
        if external_id in self.by_external and not self.renames:
            return reply_of(400, 1201, f"External_task_id {external_id} already exists")
        if self.world.strikes("create refused", name):
            return reply_of(400, 1301, "the prompt is not allowed")
        return None

    def _query(self, call: Call) -> Reply | None:
        world, name = self.world, f"{call.method} {call.path}"
        if (refused := self._common(name)) is not None:
            return refused
        if world.strikes("poll reply lost", name):
            return None
        now = world.true_time()
        if world.strikes("stale read", name):
            now -= timedelta(seconds=world.between("stale", 0.5, 6.0))
        is_shared = call.path == "/tasks" and call.method == "POST"
        if is_shared or (call.path == self.product.path and call.method == "GET"):
            reply = list_page(world, list(self.tasks.values()), call, now, is_shared=is_shared)
        elif call.path == "/tasks" and "task_ids" in call.query:
            reply = self._many(call.query["task_ids"].split(","), now)
        elif call.path == "/tasks":
            reply = self._named(call.query["external_task_ids"], now)
        else:
            reply = self._one(unquote(call.path.rpartition("/")[2]), now)
        return self._unreadable(reply) if world.strikes("unreadable poll", name) else reply

    def _named(self, external_id: str, now: datetime) -> Reply:
        """Answer a query by external ID of the newer dialect: a list, empty for an unknown one."""
        made = self._found(external_id, now)
        others = [other for other in self.tasks.values() if other is not made and other.external_id is not None]
        if made is not None and others and self.world.strikes("another task's data", external_id):
            made = self.world.choice("other task", others)
        return reply_of(200, 0, data=[] if made is None else [shown(made, now, is_new=True)])

    def _shown(self, made: Made, now: datetime, **changes: Any) -> dict[str, Any]:
        return shown(made, now, is_new=self.product.is_new, **changes)

    def _one(self, ref: str, now: datetime) -> Reply:
        made = self._found(ref, now)
        # A task without an external ID looks like the one that was asked about.
        others = [other for other in self.tasks.values() if other is not made and other.external_id is not None]
        if made is not None and others and self.world.strikes("another task's data", ref):
            made = self.world.choice("other task", others)
        if made is None:
            return reply_of(400, 1201, f"Task not found by id/external id: {ref}")
        return reply_of(200, 0, data=self._shown(made, now))

    def _many(self, refs: list[str], now: datetime) -> Reply:
        entries = []
        for ref in refs:
            made = self.tasks.get(ref)
            if made is None or made.made_at > now or self.world.strikes("batch entry dropped", ref):
                continue
            entries.append(self._shown(made, now))
        if self.tasks and self.world.strikes("foreign entry in batch", ",".join(refs)[:40]):
            entries.append(self._shown(self.world.choice("foreign", list(self.tasks.values())), now))
        return reply_of(200, 0, data=entries)

    def _found(self, ref: str, now: datetime) -> Made | None:
        made = self.tasks.get(ref)
        if made is None and not self.is_blind and (named := self.by_external.get(ref)):
            made = named[0]
        return made if made is not None and made.made_at <= now else None

    def _unreadable(self, whole: Reply) -> Reply:
        how = self.world.choice("unreadable", ("html", "empty", "truncated", "accepted", "gateway"))
        if how == "html":
            return page_of(502)
        if how == "empty":
            return Reply(status=200, headers={"content-type": "application/json"}, body=b"")
        if how == "accepted":
            return Reply(status=202, headers={}, body=b"")
        if how == "gateway":
            return reply_of(504, 0, "upstream time-out", plain={"error": {"message": "upstream timed out"}})
        return Reply(status=whole.status, headers=whole.headers, body=whole.body[: len(whole.body) // 2])

    # -- tasks and their callbacks --------------------------------------------------------------------------------

    def make(self, body: dict[str, Any]) -> Made:
        """Make a task, unless its external ID is taken by now."""
        world, (external_id, callback_url) = self.world, self.product.ids_in(body)
        if external_id is not None and (named := self.by_external.get(external_id)) and not self.renames:
            return named[0]
        now, number = world.true_time(), len(self.tasks) + 1
        contradicted = world.strikes("contradictory callback", f"kl{number:06d}")
        # Half of the contradictions come before or beside the reply.
        is_quick = contradicted and world.chance(f"quick {number}") < 0.5
        share = 0.02 if is_quick else 1.0
        processing = now + share * timedelta(seconds=world.between(f"processing {number}", 0.0, 5.0))
        made = Made(
            id=f"kl{number:06d}",
            external_id=external_id,
            prompt=body.get("prompt", ""),
            made_at=now,
            processing_at=processing,
            final_at=processing + share * timedelta(seconds=world.between(f"run time {number}", 0.5, 40.0)),
            final="failed" if world.chance(f"final {number}") < 0.2 else "succeed",
            callback_url=callback_url,
        )
        made.contradicted = contradicted
        self.tasks[made.id] = made
        if external_id is not None:
            self.by_external.setdefault(external_id, []).append(made)
        world.note(f"provider made {made.id} external {external_id} final {made.final}")
        if made.callback_url is not None:
            for status in ("submitted", "processing", made.final):
                self._start(self._call_back(made, status))
            if made.contradicted:
                self._start(self._contradict(made))
        return made

    async def _make_later(self, seconds: float, body: dict[str, Any]) -> None:
        await asyncio.sleep(seconds)
        self.make(body)

    def _start(self, sending: Any) -> None:
        self._sending.append(self.world.start(sending))

    async def _call_back(self, made: Made, status: str) -> None:
        """Send one true callback, as well as the faults allow."""
        world, about = self.world, f"{made.id} {status}"
        moment = {"submitted": made.made_at, "processing": made.processing_at}.get(status, made.final_at)
        await asyncio.sleep(max(0.0, (moment - world.true_time()).total_seconds()))
        final = status == made.final
        sure = final and made.contradicted
        if not sure and world.strikes("callback lost", about):
            return
        await asyncio.sleep(world.between(f"callback {about}", 0.0, 0.3))
        if world.strikes("callback late", about):
            await asyncio.sleep(world.between("lateness", 1.0, 120.0))
        body = json.dumps(self._shown(made, world.true_time(), status=status, updated_at=moment)).encode()
        number = made.webhook_numbers = made.webhook_numbers + 1
        unsigned = not sure and world.strikes("callback unsigned", about)
        webhook_id = None if unsigned else f"wh-{made.id}-{number}"
        await self._deliver(made, status, webhook_id, body, sure=sure)
        if world.strikes("callback doubled", about):
            await asyncio.sleep(world.between("double", 0.0, 3.0))
            await self._deliver(made, status, webhook_id, body)
        if world.strikes("callback replayed", about):
            await self._replay(made)
        if world.strikes("callback forged", about):
            await self._forge(made)

    async def _contradict(self, made: Made) -> None:
        """Send a signed callback with the opposite end: a moment before or after the true one, as was seen."""
        world = self.world
        opposite = "failed" if made.final == "succeed" else "succeed"
        apart = timedelta(seconds=world.between(f"contradiction {made.id}", -1.0, 1.0))
        moment = max(made.made_at, made.final_at + apart)
        await asyncio.sleep(max(0.0, (moment - world.true_time()).total_seconds()))
        body = json.dumps(self._shown(made, world.true_time(), status=opposite, updated_at=moment)).encode()
        await self._deliver(made, f"false {opposite}", f"wh-{made.id}-false", body)

    async def _replay(self, made: Made) -> None:
        """Send a signed callback about another task to this task's URL."""
        others = [copy for copy in self._old_callbacks if made.id.encode() not in copy[1]]
        if others:
            headers, body = self.world.choice("replayed", others)
            assert made.callback_url is not None
            status = await self._post(made.callback_url, headers, body)
            self.world.note(f"callback {made.id} replayed: {status}")

    async def _forge(self, made: Made) -> None:
        """Send a false end with a signature by another key, or with none."""
        world = self.world
        opposite = "failed" if made.final == "succeed" else "succeed"
        now = world.true_time()
        body = json.dumps(self._shown(made, now, status=opposite, updated_at=now + timedelta(seconds=5))).encode()
        key = world.choice("forgery", (OTHER_KEY, None))
        headers = {} if key is None else self._signed(f"wh-{made.id}-forged", body, key=key)
        assert made.callback_url is not None
        status = await self._post(made.callback_url, headers, body)
        world.note(f"callback {made.id} forged: {status}")

    async def _deliver(self, made: Made, what: str, webhook_id: str | None, body: bytes, *, sure: bool = False) -> None:
        """Post a callback; repeat it a few times if there was no answer or a 5xx, and until it is taken if ``sure``."""
        assert made.callback_url is not None
        pause, attempts = 1.0, 0
        while True:
            attempts += 1
            headers = {} if webhook_id is None else self._signed(webhook_id, body)
            status = await self._post(made.callback_url, headers, body)
            self.world.note(f"callback {made.id} {what}: {status}")
            taken = status is not None and 200 <= status < 300
            made.taken = made.taken or (taken and what == made.final and bool(headers))
            if taken and headers:
                self._old_callbacks.append((headers, body))
            answered = status is not None and status < 500
            # A URL with the secret of a lost file stays unknown.
            is_hopeless = answered and any(lost.foreign for lost in self.world.forgotten)
            if taken or is_hopeless or (not sure and (answered or attempts == REPEATS)):
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)

    def _signed(self, webhook_id: str, body: bytes, *, key: bytes = SECRET_KEY) -> dict[str, str]:
        timestamp = str(int(self.world.true_time().timestamp()))
        digest = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256)
        signature = "v1," + base64.b64encode(digest).decode()
        return {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
