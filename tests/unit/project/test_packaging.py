"""The files that install, build and start Homing match its code."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.metadata import packages_distributions, requires
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from homing.server.web_server import SHUTDOWN_TIMEOUT
from tracker.model.published_secrets import PUBLISHED
from tracker.model.webhook_keys import written_key
from tracker.settings import check_settings, load_settings

ROOT = Path(__file__).parents[3]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("receiver", "tracker", "homing")
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][A-Za-z0-9.+!]*)")


def lines_of(name: str) -> list[str]:
    """Return the lines of a file at the root, without comments and with joined continuations."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins() -> dict[str, Version]:
    found = [PIN.fullmatch(line) for line in lines_of("constraints.txt")]
    return {canonicalize_name(pin["name"]): Version(pin["version"]) for pin in found if pin}


def declared() -> list[Requirement]:
    project = PYPROJECT["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [Requirement(line) for line in listed]


def installed_with(name: str, extras: set[str]) -> Iterator[str]:
    """Yield the direct dependencies of `name[extras]` on this interpreter."""
    for requirement in map(Requirement, requires(name) or ()):
        wanted = [{"extra": extra} for extra in extras | {""}]
        if requirement.marker is None or any(map(requirement.marker.evaluate, wanted)):
            yield f"{requirement.name}[{','.join(sorted(requirement.extras))}]"


def imported_by(file: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | named}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make without the flags of a make process that may run these tests."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)


def make_targets() -> set[str]:
    return {line.removeprefix(".PHONY:").strip() for line in lines_of("Makefile") if line.startswith(".PHONY:")}


def instructions(instruction: str) -> list[str]:
    return [
        line.removeprefix(instruction).strip() for line in lines_of("Dockerfile") if line.startswith(f"{instruction} ")
    ]


def exec_form(text: str) -> list[str]:
    """Parse the JSON array of a CMD instruction. The shell form fails."""
    command: list[str] = json.loads(text[text.index("[") :])
    return command


def test_dependency_is_pinned_to_allowed_version() -> None:
    pinned = pins()
    for each in declared():
        # An extra may include another extra of Homing.
        assert each.name == "homing" or pinned[canonicalize_name(each.name)] in each.specifier, each


def test_indirect_dependency_is_pinned() -> None:
    waiting, seen = {"homing[dev]"}, set[str]()
    while waiting:
        spelled = waiting.pop()
        seen.add(spelled)
        wanted = Requirement(spelled)
        waiting |= set(installed_with(wanted.name, wanted.extras)) - seen
    names = {canonicalize_name(Requirement(spelled).name) for spelled in seen} - {"homing"}
    assert names - pins().keys() == set()


def test_imported_library_is_declared_dependency() -> None:
    # Only pytest loads the fixture of the sandbox.
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "fixture.py"]
    libraries = set().union(*map(imported_by, files)) - sys.stdlib_module_names - {*PACKAGES}
    distributions = packages_distributions()
    wanted = {canonicalize_name(distributions[library][0]) for library in libraries}
    project = PYPROJECT["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "dev"]
    declared = [*project["dependencies"], *chain.from_iterable(extras)]
    assert wanted - {canonicalize_name(Requirement(line).name) for line in declared} == set()


def test_server_driver_is_not_needed_for_sqlite() -> None:
    code = "import sys; sys.modules['psycopg'] = None; import homing.serve, homing.cli, tracker.storage.store"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_pin_file_has_only_sorted_exact_versions() -> None:
    lines = lines_of("constraints.txt")
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert names == sorted(set(names))


def test_lowest_python_is_the_same_everywhere() -> None:
    lowest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    images = {line.split()[0] for line in instructions("FROM")}
    assert f"MINIMUM := {lowest}" in lines_of("Makefile")
    assert images == {f"python:{lowest}-slim"}
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")


def test_make_alone_explains_every_command() -> None:
    phony = make_targets()
    shown = set(re.findall(r"^  make ([\w-]+) +\S", make().stdout, re.MULTILINE))
    assert {"demo", "serve", "test", "test-fast", "nightly", "check", "help", "clean"} <= phony
    assert shown == phony


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run", ".env.example"])
def test_make_command_named_in_text_exists(file: str) -> None:
    phony = make_targets()
    named = set(re.findall(r"(?:^|[`$] ?)make ([\w-]+)(?=`|$|\s+[A-Z#])", (ROOT / file).read_text(), re.MULTILINE))
    assert named - phony == set()


def test_absent_python_is_answered_with_remedy(tmp_path: Path) -> None:
    answer = make(f"VENV={tmp_path / 'venv'}", "PYTHON=no-such-python", "demo")
    assert answer.returncode != 0
    assert answer.stderr.startswith("No 'no-such-python' found: install Python 3.11 or newer")
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("asked", "reason"), [("version_info", "needs Python 3.11"), ("ensurepip", "has no venv")])
def test_unfit_python_is_answered_with_remedy(tmp_path: Path, asked: str, reason: str) -> None:
    unfit = tmp_path / "python"
    unfit.write_text(f'#!/bin/sh\ncase "$2" in *{asked}*) exit 1 ;; esac\n')
    unfit.chmod(0o755)
    answer = make(f"VENV={tmp_path / 'venv'}", f"PYTHON={unfit}", "demo")
    assert answer.returncode != 0
    assert reason in answer.stderr.splitlines()[0]
    assert not (tmp_path / "venv").exists()


def test_ci_runs_documented_commands() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    commands = lines_of(".ci/run")
    assert commands[0] == "set -euo pipefail"
    assert {"make check", "make test"} <= {*commands}


def test_ci_quick_tests_run_on_each_python_from_lowest() -> None:
    listing = subprocess.run(
        [str(ROOT / ".ci/run"), "--pythons"], capture_output=True, text=True, check=True, timeout=60
    )

    found = [line.split() for line in listing.stdout.splitlines()]
    versions = [tuple(map(int, version.split("."))) for version, _ in found]
    assert versions == sorted(set(versions))
    assert all(version >= (3, 11) for version in versions)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_ships_its_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["*"]


# The first versions without the advisories known at the time of writing.
SOUND = {
    "h11": "0.16.0",  # CVE-2025-43859: two servers read chunks differently
    "httpcore": "1.0.9",  # the first version that allows this h11
    "pyjwt": "2.12.0",  # CVE-2024-53861 (issuer), and unknown critical headers were accepted
    "starlette": "0.49.1",  # CVE-2024-47874, CVE-2025-54121, CVE-2025-62727: unbounded cost of forms and ranges
    "pydantic": "2.4.0",  # CVE-2024-3772
    "redis": "4.5.4",  # CVE-2023-28859: one request gets the reply of another
}


@pytest.mark.parametrize(("name", "sound"), SOUND.items())
def test_version_with_known_advisory_is_not_allowed(name: str, sound: str) -> None:
    project = PYPROJECT["project"]
    declared = [
        Requirement(line) for line in chain(project["dependencies"], *project["optional-dependencies"].values())
    ]
    floors = [
        Version(one.version)
        for requirement in declared
        if canonicalize_name(requirement.name) == name
        for one in requirement.specifier
        if one.operator == ">="
    ]
    assert floors
    assert min(floors) >= Version(sound)


def test_build_leaves_no_file_out() -> None:
    shipped = ("*.py", *PYPROJECT["tool"]["setuptools"]["package-data"]["*"])
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    sources = [path for path in files if "__pycache__" not in path.parts]
    left_out = [path for path in sources if not any(fnmatch(path.name, pattern) for pattern in shipped)]
    assert [str(path.relative_to(ROOT)) for path in left_out] == []


def test_example_settings_set_nothing_unchanged() -> None:
    assert not load_settings(environ={}, env_file=ROOT / ".env.example").model_fields_set


def test_example_setting_is_accepted_when_enabled(tmp_path: Path) -> None:
    switched_on = tmp_path / "env"
    switched_on.write_text(edited_example())
    settings = load_settings(environ={}, env_file=switched_on)
    assert check_settings(environ={}, env_file=switched_on).unknown == ()
    assert settings.model_fields_set >= {
        "client_keys",
        "kling_secret_key",
        "callback_secrets",
        "min_final_trust",
        "port",
    }


def edited_example() -> str:
    """Return the example with every line enabled and every published secret replaced."""
    text = (ROOT / ".env.example").read_text().replace("#HOMING_KLING_API_KEY=", "##")
    for number, secret in enumerate(sorted(PUBLISHED, key=len, reverse=True)):
        own = written_key(bytes([number]) * 32) if secret.startswith("whsec_") else f"{number:02}" * 20
        text = text.replace(secret, own)
    return re.sub(r"^#(?=HOMING_)", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("file", ["Dockerfile", "compose.yaml", "README.md", "SECURITY.md", "CONTRIBUTING.md"])
def test_setting_named_in_text_exists(file: str) -> None:
    named = dict.fromkeys(re.findall(r"HOMING_[A-Z_]+[A-Z]", (ROOT / file).read_text()), "set")
    assert check_settings(environ=named, env_file=None).unknown == ()


def test_container_stop_grace_exceeds_server_grace() -> None:
    [seconds] = re.findall(r"stop_grace_period: (\d+)s", (ROOT / "compose.yaml").read_text())
    assert int(seconds) > SHUTDOWN_TIMEOUT.total_seconds()


def test_image_copies_each_package_and_build_input() -> None:
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    allowed = {line[1:].rstrip("/") for line in lines_of(".dockerignore") if line.startswith("!")}
    assert copied == allowed
    assert {*PACKAGES, "pyproject.toml", PYPROJECT["project"]["readme"]} <= copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_image_runs_as_numbered_non_root_user() -> None:
    [user] = instructions("USER")
    uid, gid = map(int, user.split(":"))
    assert min(uid, gid) >= 10000
    assert f"--uid {uid}" in (ROOT / "Dockerfile").read_text()
    assert f"--gid {gid}" in (ROOT / "Dockerfile").read_text()


def image_environment(folder: Path, **chosen: str) -> dict[str, str]:
    """Return the settings of the image, with its database in `folder` and a closed port as the provider."""
    settings = dict(re.findall(r"(HOMING_\w+)=(\S+)", "\n".join(instructions("ENV"))))
    assert settings.pop("HOMING_DATABASE_URL") == f"sqlite:///{instructions('WORKDIR')[-1]}/homing.db"
    local = {"HOMING_DATABASE_URL": f"sqlite:///{folder}/homing.db", "HOMING_KLING_BASE_URL": "http://127.0.0.1:9"}
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **settings, **local, **chosen}


def health(port: int, environment: dict[str, str]) -> int:
    """Run the health check of the image against a port. It must not use a proxy from the environment."""
    [check] = instructions("HEALTHCHECK")
    around = {**environment, "HOMING_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(exec_form(check), env=around, timeout=10, check=False, stderr=subprocess.DEVNULL).returncode


@contextmanager
def started(folder: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command of the image and yield its process and port. Kill it at the end."""
    [command] = instructions("CMD")
    with subprocess.Popen(exec_form(command), env=environment, cwd=folder) as process:
        try:
            yield process, announced_port(folder / "homing.db.lock", process)
        finally:
            process.kill()


def announced_port(lock: Path, process: subprocess.Popen[bytes]) -> int:
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", lock.read_text() if lock.exists() else "")
        if found:
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError("the command ended or did not say within 30 s where it serves")


def test_image_without_keys_makes_one(tmp_path: Path) -> None:
    environment = image_environment(tmp_path, HOMING_HOST="127.0.0.1", HOMING_PORT="0")
    with started(tmp_path, environment) as (_, port):
        assert health(port, environment) == 0
        assert (tmp_path / "homing.db.key").stat().st_mode & 0o777 == 0o600


def test_image_with_example_settings_starts_and_stops(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(edited_example())
    environment = image_environment(tmp_path, HOMING_HOST="127.0.0.1", HOMING_PORT="0")
    with started(tmp_path, environment) as (process, port):
        assert health(port, environment) == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=25) == 0
        assert health(port, environment) == 1
