"""compose.yaml hangs together: each way that its head names starts what it needs, with settings that Homing takes."""

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

from tests.brokers.servers import LOCALHOST, free_port
from tracker.outbox.addresses import check_sink, parse_sinks
from tracker.settings import Settings, load_settings
from tracker.targets import NOWHERE

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
WAYS = [way.split() for way in re.findall(r"docker compose up --build --detach([^\n]*?)  +", TEXT.split("x-homing")[0])]
HOMES = [name for name, service in SERVICES.items() if service.get("image") == "homing"]
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-([^}]*))?\}")


def filled(value: str) -> str:
    """Put the defaults in for what the environment would say."""
    return VARIABLE.sub(lambda found: found[2] or "", value)


def settings_of(name: str) -> Settings:
    offered = dict(re.findall(r"^(HOMING_\w+)=(\S*)", (ROOT / ".env.example").read_text(), re.MULTILINE))
    forced = {name: filled(value) for name, value in SERVICES[name]["environment"].items()}
    return load_settings(environ=offered | forced, env_file=None)


def needed_by(names: list[str]) -> Iterator[str]:
    for name in names:
        yield name
        yield from needed_by([*SERVICES[name].get("depends_on", {})])


def test_the_head_names_three_ways() -> None:
    assert WAYS == [[], ["one", "two"], ["bus-one", "bus-two"]]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "plain")
def test_each_way_has_what_it_needs(way: list[str]) -> None:
    named = way or [name for name, service in SERVICES.items() if "profiles" not in service]
    # Naming a service switches its profile on, and no other.
    on = {profile for name in named for profile in SERVICES[name].get("profiles", ())}
    needed = set(needed_by(named))
    for name in needed:
        assert not SERVICES[name].get("profiles") or on & set(SERVICES[name]["profiles"]), name
    ports = [port for name in needed for port in SERVICES[name].get("ports", ())]
    assert len(ports) == len(set(ports))
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_each_condition_is_one_that_its_service_can_meet() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            healthy = wanted["condition"] == "service_healthy"
            assert ("healthcheck" in SERVICES[name]) == healthy
            assert healthy or SERVICES[name]["restart"] == "no"


@pytest.mark.parametrize("name", HOMES)
def test_each_home_has_settings_that_are_taken(name: str) -> None:
    settings = settings_of(name)
    assert settings.host == "0.0.0.0"
    assert [sink.name for sink in settings.sinks] == (["nats"] if name.startswith("bus-") else [])
    assert {urlsplit(settings.database_url).hostname, *(urlsplit(sink.target).hostname for sink in settings.sinks)} <= {
        None,
        *SERVICES,
    }


def test_the_sinks_of_the_environment_are_told_as_well() -> None:
    written = SERVICES["bus-one"]["environment"]["HOMING_SINKS"].replace("${HOMING_SINKS:-}", "stdout:#type=failed")
    assert [sink.name for sink in parse_sinks(filled(written))] == ["stdout", "nats"]


def test_every_variable_is_explained_at_the_head_and_has_a_value_to_try_with() -> None:
    head, _, rest = TEXT.partition("x-homing")
    for name, default in VARIABLE.findall(rest):
        assert name == "HOMING_SINKS" or (name in head and default)


async def test_the_broker_of_the_file_lets_its_sink_in_and_is_healthy_once_it_has_jetstream(tmp_path: Path) -> None:
    ports = {"4222": free_port(), "8222": free_port()}
    (sink,) = settings_of("bus-one").sinks
    with nats(tmp_path, ports):
        health = SERVICES["nats"]["healthcheck"]["test"][-1].replace(":8222/", f":{ports['8222']}/")
        assert answers_well(health)
        (here,) = parse_sinks(sink.target.replace("@nats:4222", f"@{LOCALHOST}:{ports['4222']}"))
        await check_sink(here, NOWHERE)


@contextmanager
def nats(folder: Path, ports: dict[str, int]) -> Iterator[None]:
    """Run the service's command, with ports and a folder of the test's own."""
    words = [filled(word) for word in SERVICES["nats"]["command"]]
    words = [{"/data": str(folder), "8222": str(ports["8222"])}.get(word, word) for word in words]
    binary = Path(sys.executable).with_name("nats-server")
    command = [str(binary), "--addr", LOCALHOST, "--port", str(ports["4222"]), *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def answers_well(url: str) -> bool:
    """Ask as often as compose would."""
    for _ in range(SERVICES["nats"]["healthcheck"]["retries"] * 10):
        try:
            with urllib.request.urlopen(url, timeout=3) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    return False
