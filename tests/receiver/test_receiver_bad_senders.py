"""Senders and databases that misbehave, over raw sockets and real HTTP."""

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from homing.server.web_server import address, listen, running
from receiver.app import create_receiver
from receiver.settings import ReceiverSettings
from tests.support.conditions import until
from tests.support.receiver_server import (
    OPEN,
    SIGNING,
    ReceiverServer,
    body,
    receiver_server,
)
from tracker.model.task import Status


@pytest.fixture
async def signing(tmp_path: Path) -> AsyncIterator[ReceiverServer]:
    async with receiver_server(tmp_path, SIGNING) as made:
        yield made


@pytest.fixture
async def unsigning(tmp_path: Path) -> AsyncIterator[ReceiverServer]:
    async with receiver_server(tmp_path, OPEN) as made:
        yield made


# Requests that no HTTP client would make


def request(path: str, *headers: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: callbacks.test", *headers, "", ""]).encode()


async def test_dripping_body_is_cut_off(tmp_path: Path) -> None:
    async with receiver_server(tmp_path, ReceiverSettings(body_timeout=timedelta(seconds=0.5))) as impatient:
        task, path = await impatient.expect("a")
        answer = await impatient.raw(request(path, "content-length: 100"), b"{", b'"')
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        assert await impatient.history(task) == []


async def test_declared_oversized_body_is_refused_unread(unsigning: ReceiverServer) -> None:
    _, path = await unsigning.expect("a")
    answer = await unsigning.raw(request(path, "content-length: 1048577", "expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_endless_body_is_refused_at_the_limit(unsigning: ReceiverServer) -> None:
    task, path = await unsigning.expect("a")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = await unsigning.raw(request(path, "transfer-encoding: chunked"), chunk * 17)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert await unsigning.history(task) == []


async def test_chunked_body_at_limit_is_recorded(unsigning: ReceiverServer) -> None:
    task, path = await unsigning.expect("a")
    raw = body("a").ljust(1024 * 1024)
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (raw[:7], raw[7:500_000], raw[500_000:])]
    close = ("transfer-encoding: chunked", "connection: close")
    answer = await unsigning.raw(request(path, *close), *chunks, b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert await unsigning.status(task) is Status.SUCCEEDED


async def test_truncated_body_is_not_recorded(unsigning: ReceiverServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "homing.receiver")
    task, path = await unsigning.expect("a")
    raw = body("a")
    await unsigning.raw(request(path, f"content-length: {len(raw) + 1}"), raw, hang_up=True)

    async def noticed() -> bool:
        return "the sender left" in caplog.text

    await until(noticed)
    assert await unsigning.history(task) == []


async def test_callback_is_recorded_after_sender_leaves(unsigning: ReceiverServer) -> None:
    task, path = await unsigning.expect("a")
    raw = body("a")
    await unsigning.raw(request(path, f"content-length: {len(raw)}"), raw, hang_up=True)

    async def already_finished() -> bool:
        return await unsigning.status(task) is Status.SUCCEEDED

    await until(already_finished)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "DELETE"])
async def test_wrong_method_gets_405_only_on_valid_url(unsigning: ReceiverServer, method: str) -> None:
    _, path = await unsigning.expect("a")
    good = await unsigning.raw(request(path, "connection: close", method=method))
    assert good.startswith(b"HTTP/1.1 405 ")
    assert b"allow: POST\r\n" in good
    bad = await unsigning.raw(request(path[:-1], "connection: close", method=method))
    assert bad.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("more", ["/", "/x", "%2Fx", "%00", "%0A", "%ED%A0%80", "/../x", "A"])
async def test_nearly_right_callback_url_is_not_found(unsigning: ReceiverServer, more: str) -> None:
    _, path = await unsigning.expect("a")
    answer = await unsigning.raw(request(path + more, "connection: close", "content-length: 0"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert path.encode() not in answer


async def test_non_text_headers_are_a_wrong_signature(signing: ReceiverServer) -> None:
    task, path = await signing.expect("a")
    raw = body("a")
    head = request(path, f"content-length: {len(raw)}", "connection: close", "webhook-id: 1", "webhook-timestamp: 9")
    answer = await signing.raw(head.removesuffix(b"\r\n") + b"webhook-signature: v1,\xff\xfe\xfa\r\n\r\n", raw)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert len(await signing.history(task)) == 1


# A database that refuses writes


async def test_locked_database_acknowledges_and_loses_nothing(tmp_path: Path) -> None:
    impatient = ReceiverSettings(commit_timeout=timedelta(seconds=0.2))
    async with receiver_server(tmp_path, impatient) as made:
        task, path = await made.expect("a")
        with closing(sqlite3.connect(made.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = await made.post(path, body("a"))
            other.execute("ROLLBACK")
        assert (refused.status_code, refused.json()) == (503, {"status": "unavailable"})
        assert int(refused.headers["retry-after"]) >= 1
        again = ReceiverSettings()
        with closing(listen("127.0.0.1", 0)) as listener:
            url = address(listener)
            async with running(create_receiver(made.tracker, again), listener), httpx.AsyncClient(base_url=url) as http:
                assert (await http.post(path, content=body("a"))).status_code == 200
        assert await made.status(task) is Status.SUCCEEDED
        assert len(await made.history(task)) == 1


async def test_closed_tracker_acknowledges_nothing(tmp_path: Path) -> None:
    async with receiver_server(tmp_path, OPEN) as made:
        _, path = await made.expect("a")
        _, shared_path = await made.shared_url()
    with closing(listen("127.0.0.1", 0)) as listener:
        url = address(listener)
        async with running(create_receiver(made.tracker, OPEN), listener), httpx.AsyncClient(base_url=url) as http:
            for each in (path, shared_path):
                answer = await http.post(each, content=body("a"))
                assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
