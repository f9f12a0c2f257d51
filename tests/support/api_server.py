"""Homing over real HTTP on a free port with a sandbox provider, for the API integration tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from homing.sandbox import RunningSandbox
from homing.serve import Homing, access_of
from homing.server.web_server import address, listen, running
from tests.support.api_keys import LOCAL_KEY
from tests.support.databases import sqlite_url
from tracker.api import Limits, routes
from tracker.model.keys import NamedKey
from tracker.rules.schedule import Policy
from tracker.service.tracker import Tracker
from tracker.settings import Settings

OMNI = "/v1/images/omni-image"
STUDIO = NamedKey(name="studio", key="made-up-studio-key")
OTHER = NamedKey(name="other", key="made-up-other-key")
OPERATOR = NamedKey(name="operator", key="made-up-operator-key", sees_all=True)
QUICK = Policy(
    answer_within=timedelta(seconds=4),
    attempt=timedelta(seconds=3),
    busy_delay=timedelta(milliseconds=50),
    # Callbacks arrive before any scheduled poll.
    first_poll_delay=timedelta(seconds=30),
    early_poll_delay=timedelta(seconds=30),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    url: str
    tracker: Tracker
    client: httpx.AsyncClient

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 80


@asynccontextmanager
async def served(
    folder: Path, sandbox: RunningSandbox, *, limits: Limits | None = None, policy: Policy = QUICK, **settings: Any
) -> AsyncIterator[Served]:
    """Serve on loopback. With ``limits`` only the API is served, under these limits."""
    with closing(listen("127.0.0.1", 0)) as listener:
        url = address(listener)
        usual = {
            "database_url": sqlite_url(folder),
            "kling_base_url": sandbox.base_url,
            "kling_api_key": sandbox.api_key,
            "public_url": url,
            "api_keys": (LOCAL_KEY,),
        }
        chosen = Settings(**(usual | settings))
        async with Homing(chosen, policy=policy) as homing:
            app = homing.app
            if limits is not None:
                app = Starlette(routes=routes(homing.tracker, access_of(chosen), limits=limits))
            headers = {"authorization": f"Bearer {chosen.api_keys[0].key}"}
            async with (
                running(app, listener, ending=homing.tracker.feed.dismiss),
                httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client,
            ):
                yield Served(url=url, tracker=homing.tracker, client=client)
