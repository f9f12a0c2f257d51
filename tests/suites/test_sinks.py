"""Every sink that needs no broker passes the shared suite, over a receiver of its own."""

import asyncio
import json
import os
import select
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.suites.sink_case import Got, SinkCase
from tests.suites.sink_suite import SinkSuite
from tests.support.fakes import new_secret
from tests.support.web_receiver import Request, WebReceiver, reply
from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.client_callbacks import Callbacks
from tracker.delivery.sinks.function import Function
from tracker.delivery.sinks.stdout import Lines
from tracker.delivery.sinks.webhook import Webhook
from tracker.model.clock import utc_now
from tracker.model.sinks import SinkSpec
from tracker.model.targets import read_allowed
from tracker.service.sink_secrets import SinkSecrets
from tracker.transport import Poster

LOOPBACK = read_allowed(("127.0.0.1",))
SOURCE = "urn:homing"
NAME = "under test"


def got_of(event: dict[str, Any]) -> Got:
    return Got(id=event["id"], subject=event["subject"], sequence=int(event["sequence"]))


class WebCase(SinkCase):
    """A web server: killed is a connection that breaks, slow is an answer that does not come."""

    def __init__(self) -> None:
        self.server = WebReceiver(answer=self._answer)
        self.taken: list[Got] = []
        self.refuses: Callable[[Got], bool] = lambda _: False
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        await self.server.kill()

    async def got(self) -> list[Got]:
        return list(self.taken)

    def refuse(self, refuses: Callable[[Got], bool]) -> None:
        self.refuses = refuses

    def hold(self) -> None:
        self.open.clear()

    def let_go(self) -> None:
        self.open.set()

    def is_holding(self) -> bool:
        return self.waiting > 0

    @abstractmethod
    def read(self, request: Request) -> Got: ...

    async def _answer(self, request: Request) -> bytes:
        got = self.read(request)
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1
        if self.refuses(got):
            return reply(422)
        self.taken.append(got)
        return reply()


class WebhookCase(WebCase):
    def sink(self) -> Sink:
        spec = SinkSpec(name=NAME, scheme="http", target=self.server.url, address="http://…")
        secrets = SinkSecrets(new_secret, {})
        return Webhook(spec, source=SOURCE, secrets=secrets, poster=Poster(LOOPBACK), clock=utc_now)

    def read(self, request: Request) -> Got:
        return got_of(json.loads(request.body))


class CallbacksCase(WebCase):
    alarms = False

    @property
    def task(self) -> dict[str, Any]:
        return {"client_callback_url": self.server.url}

    def sink(self) -> Sink:
        sink = Callbacks(secrets=SinkSecrets(new_secret, {}), poster=Poster(LOOPBACK), clock=utc_now)
        sink.name = NAME
        return sink

    def read(self, request: Request) -> Got:
        webhook_id = request.headers["webhook-id"]
        return Got(
            id=webhook_id, subject=json.loads(request.body)["task_id"], sequence=int(webhook_id.partition("-")[2])
        )


class FunctionCase(SinkCase):
    """A function of this process: killed is one that raises."""

    def __init__(self) -> None:
        self.up = False
        self.taken: list[Got] = []
        self.refuses: Callable[[Got], bool] = lambda _: False
        self.open = threading.Event()
        self.open.set()
        self.waiting = 0

    def sink(self) -> Sink:
        return Function(self.receive, name=NAME, source=SOURCE)

    def receive(self, event: dict[str, Any]) -> None:
        self.waiting += 1
        self.open.wait()
        self.waiting -= 1
        self.take(got_of(event))

    def take(self, got: Got) -> None:
        if not self.up or self.refuses(got):
            raise ConnectionError
        self.taken.append(got)

    async def start(self) -> None:
        self.up = True

    async def kill(self) -> None:
        self.up = False

    async def got(self) -> list[Got]:
        return list(self.taken)

    def refuse(self, refuses: Callable[[Got], bool]) -> None:
        self.refuses = refuses

    def hold(self) -> None:
        self.open.clear()

    def let_go(self) -> None:
        self.open.set()

    def is_holding(self) -> bool:
        return self.waiting > 0


class CoroutineCase(FunctionCase):
    def __init__(self) -> None:
        super().__init__()
        self.ready = asyncio.Event()
        self.ready.set()

    def sink(self) -> Sink:
        return Function(self.awaited, name=NAME, source=SOURCE)

    async def awaited(self, event: dict[str, Any]) -> None:
        self.waiting += 1
        await self.ready.wait()
        self.waiting -= 1
        self.take(got_of(event))

    def hold(self) -> None:
        self.ready.clear()

    def let_go(self) -> None:
        self.ready.set()


class PipeCase(SinkCase):
    """A pipe: killed is a reader that has closed it, slow is one that does not read while the pipe is full."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self.rest = b""
        self.taken: list[Got] = []
        self.reading = False
        self.filling = 0

    def sink(self) -> Sink:
        return Lines(name=NAME, source=SOURCE, descriptor=self.write)

    async def start(self) -> None:
        if not self.reading:
            self.reading = True
            read, write = os.pipe()
            os.set_blocking(read, False)
            # The same descriptor, as a process keeps its standard output.
            os.dup2(write, self.write)
            os.close(write)
            self.read, self.rest = read, b""

    async def kill(self) -> None:
        if self.reading:
            self._empty()
            os.close(self.read)
            self.reading = False

    async def got(self) -> list[Got]:
        if self.reading and not self.filling:
            self._empty()
        return list(self.taken)

    def refuse(self, refuses: Callable[[Got], bool]) -> None:
        del refuses
        pytest.skip("a pipe takes every event")

    def hold(self) -> None:
        """Leave no room in the pipe."""
        os.set_blocking(self.write, False)
        with suppress(BlockingIOError):
            while True:
                self.filling += os.write(self.write, b" " * 4096)
        with suppress(BlockingIOError):
            while True:
                self.filling += os.write(self.write, b" ")
        os.set_blocking(self.write, True)

    def let_go(self) -> None:
        self.filling = 0
        if self.reading:
            self._empty()

    def is_holding(self) -> bool:
        alive = [thread for thread in threading.enumerate() if thread.name == f"sink {NAME}"]
        return bool(self.filling and alive and not select.select([], [self.write], [], 0)[1])

    def _empty(self) -> None:
        with suppress(BlockingIOError):
            while more := os.read(self.read, 1 << 16):
                self.rest += more
        *lines, self.rest = self.rest.split(b"\n")
        self.taken += [got_of(json.loads(line)) for line in lines]


class TestWebhook(SinkSuite):
    @pytest.fixture
    async def case(self) -> SinkCase:
        return WebhookCase()


class TestCallbacks(SinkSuite):
    @pytest.fixture
    async def case(self) -> SinkCase:
        return CallbacksCase()


class TestFunction(SinkSuite):
    @pytest.fixture
    async def case(self) -> SinkCase:
        return FunctionCase()


class TestCoroutine(SinkSuite):
    @pytest.fixture
    async def case(self) -> SinkCase:
        return CoroutineCase()


class TestStdout(SinkSuite):
    @pytest.fixture
    def case(self) -> Iterator[SinkCase]:
        case = PipeCase()
        os.close(case.read)
        yield case
        os.close(case.write)
