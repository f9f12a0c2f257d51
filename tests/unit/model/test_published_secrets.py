"""Tests that no example secret of this repository starts a server, and that the list has all of them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from homing.server.local_key import key_file, local_key
from tracker.api import Access, check_keys
from tracker.errors import SettingsError
from tracker.model.keys import ClientKey, NamedKey
from tracker.model.published_secrets import PUBLISHED
from tracker.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
TEXTS = [
    *(
        ROOT / name
        for name in (".env.example", "README.md", "CONTRIBUTING.md", "SECURITY.md", "Dockerfile", "Makefile")
    ),
    *ROOT.glob("compose*.yaml"),
    *(ROOT / "docs").rglob("*.md"),
]
EXAMPLE = re.compile(r"(?<![\w-])(?:made-?up[\w-]*|whsec_[A-Za-z0-9+/]{8,}=*)")
# Examples that are not secrets.
NAMES = {"made-up", "made-up-access", "made-up-access-key", "made-up-key"}


# Settings that are valid only together.
BESIDE = {
    "HOMING_SINK_SECRETS": {"HOMING_SINKS": "https://shop.example/hook#name=shop"},
    "HOMING_KLING_SECRET_KEY": {"HOMING_KLING_ACCESS_KEY": "access"},
}


def lines() -> Iterator[tuple[str, str]]:
    """Yield the name and value of each setting in the example file, enabled or not."""
    yield from re.findall(r"^#?(HOMING_\w+)=(\S+)", (ROOT / ".env.example").read_text(), re.MULTILINE)


def test_every_example_secret_is_listed() -> None:
    found = {example for text in TEXTS for example in EXAMPLE.findall(text.read_text())}

    assert found - NAMES <= PUBLISHED
    assert {name for name, value in lines() if any(secret in value for secret in PUBLISHED - NAMES)} >= {
        "HOMING_API_KEYS",
        "HOMING_CALLBACK_SECRETS",
        "HOMING_CLIENT_KEYS",
        "HOMING_SINK_SECRETS",
    }


@pytest.mark.parametrize(
    ("name", "value"), [line for line in lines() if any(secret in line[1] for secret in PUBLISHED - NAMES)]
)
def test_unedited_example_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({name: value} | BESIDE.get(name, {}), None)

    assert raised.value.detail.startswith(name)
    assert "is a public example" in raised.value.detail
    assert value.rpartition(":")[2] not in raised.value.detail


@pytest.mark.parametrize(
    "settings",
    [
        {"sinks": "nats://made-up-token@nats:4222/#name=nats"},
        {"sinks": "amqp://homing:made%2Dup%2Dpassword@rabbit/#name=bus"},
        {"database_url": "postgresql://homing:madeupdatabasepassword@postgres/homing"},
    ],
)
def test_example_secret_in_url_is_refused(settings: dict[str, str]) -> None:
    environ = {f"HOMING_{name.upper()}": value for name, value in settings.items()}
    with pytest.raises(SettingsError, match="is a public example"):
        load_settings(environ, None)


def test_example_secret_in_python_is_refused(tmp_path: Path) -> None:
    key = NamedKey(name="shop", key="made-up-key-replace-me")
    pair = ClientKey(access="shop", secret="made-up-secret-of-at-least-32-bytes")

    for access in (Access(api_keys=(key,)), Access(client_keys=(pair,))):
        with pytest.raises(SettingsError, match="is a public example"):
            check_keys(access)
    with pytest.raises(ValueError, match="is a public example"):
        Settings(callback_secrets=(b"made-up-callback-secret-of-at-least-32-bytes",))
    key_file(tmp_path / "homing.db").write_text(key.key)
    key_file(tmp_path / "homing.db").chmod(0o600)
    with pytest.raises(SettingsError, match="is a public example"):
        local_key(tmp_path / "homing.db")
