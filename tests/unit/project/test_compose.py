"""Each command in the head of compose.yaml starts the services that it needs, with valid settings."""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.brokers.servers import LOCALHOST, free_port
from tracker.delivery.sinks.urls import check_sink, parse_sinks
from tracker.errors import SettingsError
from tracker.model.targets import PUBLIC_ONLY
from tracker.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
HEAD = (ROOT / "compose.yaml").read_text().partition("\nservices:")[0]
WAYS = [
    re.findall(r"-f (\S+)", way) or ["compose.yaml"]
    for way in re.findall(r"docker compose (.*?)up --build --detach", HEAD)
]
VARIABLE = re.compile(r"\$\{([A-Z_]+)(:[-?])([^}]*)\}")
# The heads of the files ask for letters and digits.
CHOSEN = {"POSTGRES_PASSWORD": "chosenforthetest", "NATS_TOKEN": "anotherforthetest"}


def services(way: list[str]) -> dict[str, dict[str, Any]]:
    """Return the merged services of some files. The merge follows compose as far as these files need."""
    merged: dict[str, dict[str, Any]] = {}
    for file in way:
        for name, more in yaml.safe_load((ROOT / file).read_text())["services"].items():
            known = merged.setdefault(name, {})
            for key, value in more.items():
                known[key] = {**known.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


NATS = services(WAYS[-1])["nats"]
ALL_WAYS = pytest.mark.parametrize("way", WAYS, ids="+".join)


def filled(value: str, **sets: str) -> str:
    """Replace variables with their value in the environment, or with the default."""
    given = CHOSEN | sets
    return VARIABLE.sub(lambda found: given.get(found[1]) or (found[3] if found[2] == ":-" else "MISSING"), value)


def settings_of(service: dict[str, Any], **sets: str) -> Settings:
    forced = {name: filled(value, **sets) for name, value in service["environment"].items()}
    return load_settings(environ=forced, env_file=None)


def homing_services(way: list[str]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services(way).items() if service.get("image") == "homing"}


def test_compose_head_names_three_ways() -> None:
    assert WAYS == [
        ["compose.yaml"],
        ["compose.replicas.yaml"],
        ["compose.replicas.yaml", "compose.bus.yaml"],
    ]


@ALL_WAYS
def test_compose_way_has_its_services_and_ports(way: list[str]) -> None:
    found = services(way)
    needed = {name for service in found.values() for name in service.get("depends_on", {})}
    ports = [port for service in found.values() for port in service.get("ports", ())]
    assert needed <= found.keys()
    assert len(ports) == len(set(ports))
    assert all(port.startswith("127.0.0.1:") for port in ports)


@ALL_WAYS
def test_compose_condition_can_be_met(way: list[str]) -> None:
    found = services(way)
    for service in found.values():
        for name, wanted in service.get("depends_on", {}).items():
            healthy = wanted["condition"] == "service_healthy"
            assert ("healthcheck" in found[name]) == healthy
            assert healthy or found[name]["restart"] == "no"


@ALL_WAYS
def test_compose_homing_service_has_valid_settings(way: list[str]) -> None:
    for name, service in homing_services(way).items():
        settings = settings_of(service)
        expected = ["nats"] if "compose.bus.yaml" in way and name != "migrate" else []
        assert settings.host == "0.0.0.0"
        assert [sink.name for sink in settings.sinks] == expected
        hosts = {urlsplit(settings.database_url).hostname, *(urlsplit(sink.target).hostname for sink in settings.sinks)}
        assert hosts <= {None, *services(way)}


def test_compose_adds_sinks_of_environment() -> None:
    one = homing_services(WAYS[-1])["one"]
    sinks = settings_of(one, HOMING_SINKS="stdout:#type=failed").sinks
    assert [sink.name for sink in sinks] == ["stdout", "nats"]


@ALL_WAYS
def test_compose_requires_and_explains_every_secret(way: list[str]) -> None:
    """Compose requires all variables of a file, whichever services start. So a file may only name its own."""
    for file in way:
        text = (ROOT / file).read_text()
        head, _, rest = text.partition("\nx-") if "\nx-" in text else text.partition("\nservices:")
        for name, operator, message in VARIABLE.findall(rest):
            assert name in head
            assert (operator, bool(message)) == ((":?", True) if name in CHOSEN else (":-", False))


@pytest.mark.parametrize("value", ["made-up-password", "madeupdatabasepassword"])
def test_published_password_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="HOMING_DATABASE_URL: a secret is a public example"):
        settings_of(homing_services(WAYS[1])["one"], POSTGRES_PASSWORD=value)


async def test_compose_broker_accepts_sink_and_becomes_healthy(tmp_path: Path) -> None:
    ports = {"4222": free_port(), "8222": free_port()}
    (sink,) = settings_of(homing_services(WAYS[-1])["one"]).sinks
    with nats(tmp_path, ports):
        health = NATS["healthcheck"]["test"][-1].replace(":8222/", f":{ports['8222']}/")
        assert answers_well(health)
        (here,) = parse_sinks(sink.target.replace("@nats:4222", f"@{LOCALHOST}:{ports['4222']}"))
        await check_sink(here, PUBLIC_ONLY)


@contextmanager
def nats(folder: Path, ports: dict[str, int]) -> Iterator[None]:
    """Run the command of the service with other ports and another folder."""
    arguments = [filled(argument) for argument in NATS["command"]]
    arguments = [{"/data": str(folder), "8222": str(ports["8222"])}.get(argument, argument) for argument in arguments]
    binary = Path(sys.executable).with_name("nats-server")
    command = [str(binary), "--addr", LOCALHOST, "--port", str(ports["4222"]), *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def answers_well(url: str) -> bool:
    """Return whether the URL answers 200 within the retries of the health check."""
    for _ in range(NATS["healthcheck"]["retries"] * 10):
        try:
            with urllib.request.urlopen(url, timeout=3) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    return False
